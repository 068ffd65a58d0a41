// Builds static/ from src/. `--check` builds into memory and compares with what is committed.
import { build } from "esbuild";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "static");
const BUNDLED = ["dompurify", "htm", "katex", "marked", "preact"];

// KaTeX's stylesheet names each font three times; every browser of the last ten years reads woff2.
const woff2Only = {
  name: "woff2-only",
  setup(b) {
    b.onLoad({ filter: /katex\.css$/ }, (args) => ({
      contents: readFileSync(args.path, "utf8").replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\([^)]*\)/g, ""),
      loader: "css",
    }));
  },
};

function licences() {
  return BUNDLED.map((name) => {
    const home = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
    return `${name} ${version} (${license})\n\n${readFileSync(join(home, "LICENSE"), "utf8").trim()}\n`;
  }).join(`\n${"-".repeat(80)}\n\n`);
}

async function files() {
  const result = await build({
    absWorkingDir: here,
    entryPoints: { app: "src/main.js", style: "src/style.css" },
    outdir: out,
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: ["chrome110", "firefox115", "safari16.4"],
    charset: "utf8",
    legalComments: "none", // every licence is in licences.txt
    loader: { ".woff2": "file" },
    assetNames: "fonts/[name]-[hash]",
    plugins: [woff2Only],
    logLevel: "warning",
  });
  const made = new Map(result.outputFiles.map((file) => [relative(out, file.path), Buffer.from(file.contents)]));
  for (const name of ["index.html", "icon.svg"]) made.set(name, readFileSync(join(here, "src", name)));
  made.set("licences.txt", Buffer.from(licences()));
  return made;
}

function committed(folder = out) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(out, join(entry.parentPath ?? entry.path, entry.name)));
}

const made = await files();
if (process.argv.includes("--check")) {
  const names = new Set([...made.keys(), ...committed()]);
  const stale = [...names].filter((name) => {
    const path = join(out, name);
    return !made.has(name) || !existsSync(path) || !made.get(name).equals(readFileSync(path));
  });
  if (stale.length) {
    console.error(`static/ is not what src/ builds: ${stale.sort().join(", ")}; run npm run build`);
    process.exit(1);
  }
} else {
  rmSync(out, { recursive: true, force: true });
  for (const [name, content] of made) {
    mkdirSync(dirname(join(out, name)), { recursive: true });
    writeFileSync(join(out, name), content);
  }
}
