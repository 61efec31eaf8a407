// Keys, the time a card was in view, and what happens when an answer cannot be sent. Everything else is the server's.
"use strict";
(() => {
  const RETRY_MS = 1000;
  const status = document.getElementById("status");
  const help = document.getElementById("help");
  const singleKeys = document.getElementById("single-keys");
  let seconds = 0;
  let isMeasured = true;
  let since = null;
  let retry = null;

  const inView = () => seconds + (since === null ? 0 : (performance.now() - since) / 1000);

  // A card that was in view before goes on from there. Nothing there: that time could not be told, nor can the whole.
  const startClock = () => {
    const before = document.getElementById("review").dataset.seconds;
    isMeasured = before !== "";
    seconds = Number(before);
    since = document.hidden ? null : performance.now();
  };
  startClock();

  document.addEventListener("visibilitychange", () => {
    seconds = inView();
    since = document.hidden ? null : performance.now();
  });

  const say = (text, isBad) => {
    status.textContent = text;
    status.classList.toggle("bad", isBad);
  };

  const press = (key) => {
    const button = document.querySelector(`button[data-key="${CSS.escape(key)}"]`);
    if (button === null) return false;
    button.click();
    return true;
  };

  document.addEventListener("keydown", (event) => {
    const isWriting = event.target.id === "note";
    if (isWriting && event.key === "Escape") event.target.blur();
    // Enter in the note would press the first button of the form, which is an answer nobody gave
    if (isWriting && event.key === "Enter") { event.preventDefault(); event.target.blur(); }
    if (isWriting || help.open || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!singleKeys.checked) return;
    const key = event.key.toLowerCase();
    if (key === "w") {
      const note = document.getElementById("note");
      if (note !== null) { event.preventDefault(); note.focus(); }
    } else if (press(key)) {
      event.preventDefault();
    }
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-opens=help]")) help.showModal();
    if (event.target.id === "help-close") help.close();
  });

  singleKeys.checked = localStorage.getItem("single-keys") !== "off";
  singleKeys.addEventListener("change", () => localStorage.setItem("single-keys", singleKeys.checked ? "on" : "off"));

  // A press that comes before htmx has seen the form would leave the page: hold it until it has.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    setTimeout(() => event.submitter.click(), 20);
  });

  document.body.addEventListener("htmx:configRequest", (event) => {
    clearTimeout(retry);
    event.detail.parameters["seconds"] = isMeasured ? inView().toFixed(1) : "";
  });

  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id === "judge") {
      const words = document.querySelector("#judge h2");
      if (words !== null) isMeasured = false; // the words and the card are read in one view
      words?.focus();
      return;
    }
    window.scrollTo(0, 0);
    startClock();
    status.classList.remove("bad");
    document.getElementById("question").focus({ preventScroll: true });
  });

  // While a note is written the card stays: the letters that follow would be answers to the next one.
  const pressLater = (button) => {
    retry = setTimeout(() => (document.activeElement?.id === "note" ? pressLater(button) : button.click()), RETRY_MS);
  };

  // Not sent, or nothing came back: the card stays, and the same press is tried again. Sent twice is done once.
  const again = (event) => {
    const { elt, requestConfig } = event.detail;
    const button = requestConfig?.triggeringEvent?.submitter ?? elt;
    say("Not saved yet: the server does not answer. Trying again.", true);
    clearTimeout(retry);
    pressLater(button);
  };
  document.body.addEventListener("htmx:sendError", again);
  document.body.addEventListener("htmx:timeout", again);
  document.body.addEventListener("htmx:responseError", (event) => {
    say(event.detail.xhr.status === 403
      ? "Not saved: the server was started anew. Open the address that it printed."
      : "Not saved: the server had an error. Look at its terminal; your answer is not lost if you press the key again.", true);
  });
})();
