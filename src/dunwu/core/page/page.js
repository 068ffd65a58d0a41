"use strict";
// The language switch. Text goes into the page as text only, and nothing leaves it.

const page = document.documentElement;
const languages = ["en", "zh-Hans"];

function choose(language) {
  page.lang = language;
  for (const button of document.querySelectorAll("[data-lang]")) {
    button.setAttribute("aria-pressed", String(button.dataset.lang === language));
  }
  try { localStorage.setItem("dunwu-language", language); } catch { /* a page from disk may have no storage */ }
}

function remembered() {
  try { return localStorage.getItem("dunwu-language"); } catch { return null; }
}

for (const button of document.querySelectorAll("[data-lang]")) {
  button.addEventListener("click", () => choose(button.dataset.lang));
}
const known = remembered();
choose(languages.includes(known) ? known : navigator.language.startsWith("zh") ? "zh-Hans" : "en");
