"""One door to every language model that is asked something: `client.LanguageClient.ask`."""
