import { setSettings, useApp } from "../state.js";
import { html } from "./html.js";
import { Icon } from "./icons.js";

/** One of a few values for a setting, all in sight. options: [{is, text or icon, label for an icon or an abbreviation, title}] */
export function Choice({ name, label: all, labelledby, options }) {
  const value = useApp((state) => state.settings[name]);
  return html`
    <div class="choice" role="group" aria-label=${all} aria-labelledby=${labelledby}>
      ${options.map(
        ({ is, text, icon, label, title = label }) => html`
          <button type="button" key=${is} aria-pressed=${value === is} aria-label=${label} title=${title} onClick=${() => setSettings({ [name]: is })}>
            ${icon ? html`<${Icon} name=${icon} />` : text}
          </button>
        `,
      )}
    </div>
  `;
}
