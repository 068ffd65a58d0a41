export { html } from "htm/preact";

export const classes = (...names) => names.filter(Boolean).join(" ");
