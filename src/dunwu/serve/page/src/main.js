import { render } from "preact";
import { saveAll, start } from "./actions.js";
import { app, applyLook } from "./state.js";
import { App } from "./ui/app.js";
import { html } from "./ui/html.js";

applyLook();
render(html`<${App} />`, document.getElementById("app"));
start();
window.addEventListener("pagehide", saveAll);
document.addEventListener("visibilitychange", () => document.hidden && saveAll());
window.addEventListener("hashchange", () => {
  const view = location.hash.slice(1);
  if (["chat", "compare", "tokens"].includes(view)) app.set({ view });
});
