import { setSettings, useApp } from "../state.js";
import { html } from "./html.js";
import { Icon } from "./icons.js";

/** One of a few values for a setting, all in sight. options: [{is, text or icon, title}] */
export function Choice({ name, label, labelledby, options }) {
  const value = useApp((state) => state.settings[name]);
  return html`
    <div class="choice" role="group" aria-label=${label} aria-labelledby=${labelledby}>
      ${options.map(
        ({ is, text, icon, title }) => html`
          <button type="button" key=${is} aria-pressed=${value === is} aria-label=${title} title=${title} onClick=${() => setSettings({ [name]: is })}>
            ${icon ? html`<${Icon} name=${icon} />` : text}
          </button>
        `,
      )}
    </div>
  `;
}
