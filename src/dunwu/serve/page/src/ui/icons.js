// Line icons on a grid of 24, drawn for this page.
import { html } from "./html.js";

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  retry: "M4 12a8 8 0 1 1 2.6 5.9M4 20v-5h5",
  edit: "M5 19l1-4L16.5 4.5l3 3L9 18l-4 1M14 7l3 3",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 13l4 4L19 7",
  back: "M14 6l-6 6 6 6",
  forth: "M10 6l6 6-6 6",
  on: "M5 5v14M9 12h11M15 7l5 5-5 5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  tune: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  think: "M3 17c2.5 0 2.5-9 5-9s2.5 7 5 7 2.5-11 4.5-11S19 13 21 13",
  open: "M6 9l6 6 6-6",
  down: "M12 5v14M6 13l6 6 6-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M19 5l-1.4 1.4M6.4 17.6L5 19",
  moon: "M20 14A8.5 8.5 0 0 1 10 4a8.5 8.5 0 1 0 10 10z",
  half: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 3v18M15 4.5v15M18 6.5v11",
  keys: "M3 6h18v12H3zM7 10h.01M12 10h.01M17 10h.01M8 14h8",
  out: "M12 15V4M8 8l4-4 4 4M5 14v6h14v-6",
  in: "M12 4v11M8 11l4 4 4-4M5 14v6h14v-6",
};

export const Icon = ({ name, filled = false }) => html`
  <svg class=${filled ? "icon filled" : "icon"} viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>
`;

/** A button with an icon; its name is read aloud and shown as a tooltip. */
export const IconButton = ({ icon, label, class: extra = "", filled, children, ...rest }) => html`
  <button type="button" class=${`icon-button ${extra}`} aria-label=${label} title=${label} ...${rest}><${Icon} name=${icon} filled=${filled} />${children}</button>
`;
