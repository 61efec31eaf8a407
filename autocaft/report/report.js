// Filter, sort and search over the directions, folded seeds, deep links. Without it everything is on the page, unfolded.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // seeds of an arm
  const fold = (button, isOpen) => {
    button.setAttribute("aria-expanded", String(isOpen));
    button.closest("tbody").classList.toggle("folded", !isOpen);
  };
  for (const button of document.querySelectorAll(".arm button")) {
    button.hidden = false;
    button.nextElementSibling.hidden = true;
    button.setAttribute("aria-label", `Show each of ${button.textContent} seeds`);
    button.addEventListener("click", () => fold(button, button.getAttribute("aria-expanded") !== "true"));
    fold(button, false);
  }

  // directions
  const list = byId("cards");
  const cards = list === null ? [] : [...list.querySelectorAll(".card")];
  const asWritten = list === null ? [] : [...list.children];
  const groups = asWritten.filter((element) => element.className === "group");
  const fields = ["by-state", "by-source", "by-layer", "sort", "find"].map(byId).filter((field) => field !== null);
  const valueOf = (id) => byId(id)?.value ?? "";
  const textOf = new Map();

  const isState = (card, state) => {
    if (state === "kept") return card.dataset.state === "near" || card.dataset.state === "rest";
    return state === "abstained" ? "abstains" in card.dataset : card.dataset.state === state;
  };
  const holds = (card, words) => {
    if (!textOf.has(card)) textOf.set(card, card.textContent.toLowerCase());
    return words.every((word) => textOf.get(card).includes(word));
  };
  const apply = () => {
    const state = valueOf("by-state"), source = valueOf("by-source"), layer = valueOf("by-layer");
    const words = valueOf("find").toLowerCase().split(/\s+/).filter((word) => word !== "");
    let n = 0;
    for (const card of cards) {
      card.hidden = !((state === "" || isState(card, state))
        && (source === "" || card.dataset.source === source)
        && (layer === "" || card.dataset.layer === layer)
        && holds(card, words));
      n += card.hidden ? 0 : 1;
    }
    const isAll = n === cards.length;
    for (const group of groups) group.hidden = !isAll || valueOf("sort") !== "";
    byId("count").textContent = isAll ? `${n} directions` : `${n} of ${cards.length} directions`;
    byId("nothing").hidden = n !== 0;
  };
  const sort = () => {
    const key = valueOf("sort");
    const number = (card) => (key in card.dataset ? Number(card.dataset[key]) : -Infinity);
    list.append(...(key === "" ? asWritten : cards.toSorted((a, b) => number(b) - number(a))));
    apply();
  };
  const reset = () => {
    for (const field of fields) field.value = "";
    sort();
  };

  // a link to a direction or an arm opens what holds it
  const follow = () => {
    let target = null;
    try {
      target = byId(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return;
    }
    if (target === null) return;
    if (target.classList.contains("card")) {
      if (target.hidden) reset();
      if (target.tagName === "DETAILS") target.open = true;
    }
    const button = target.querySelector(":scope.arm button");
    if (button !== null) fold(button, true);
    target.scrollIntoView();
  };

  if (list !== null) {
    byId("filters").hidden = false;
    for (const field of fields) field.addEventListener("input", field.id === "sort" ? sort : apply);
    byId("reset").addEventListener("click", () => {
      reset();
      byId("find").focus();
    });
    sort();
  }
  // on paper everything is open but the directions, of which there are hundreds
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.fold:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
  addEventListener("hashchange", follow);
  follow();
})();
