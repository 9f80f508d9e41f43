/** Numbers, durations and times for people. Exact values are for titles and for copies. */

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const plain = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** `1,234`, `56.7 k`, `1.2 M`. */
export function count(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) return `${short.format(value / (unit === "k" ? 1e3 : size))} ${unit}`;
  }
  return Number.isInteger(value) ? plain.format(value) : metric(value);
}

/** The value in full, with its unit. */
export const exact = (value, unit = "") => `${Number.isInteger(value) ? plain.format(value) : value}${unit && ` ${unit}`}`;

/** A measurement with four significant digits: `0.6931`, `12.35`, `2.5e-5`. */
export function metric(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return size >= 1000 ? plain.format(Math.round(value)) : String(Number(value.toPrecision(4)));
}

/** `0.8 s`, `42 s`, `3 min 20 s`, `1 h 5 min`, `2 d 3 h`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${Number(seconds.toFixed(seconds < 1 ? 2 : 1))} s`;
  const whole = Math.round(seconds);
  const parts = [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => whole >= size);
  const [[size, unit], next] = [parts[first], parts[first + 1]];
  const rest = next && Math.floor((whole % size) / next[0]);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** A range of durations in one unit: `4 to 6 min`; one value if both ends read the same. */
export function durations(low, high) {
  const [size, unit] = [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [1, "s"]].find(([size]) => high >= 2 * size) ?? [1, "s"];
  const [from, to] = [Math.max(1, Math.round(low / size)), Math.max(1, Math.round(high / size))];
  return from === to ? `about ${to} ${unit}` : `${from} to ${to} ${unit}`;
}

/** The time from now to a range of times, Unix seconds, as the API predicts it: `4 to 6 min`; `5 min or more` if `latest` is null. */
export function until({ earliest, latest }, now = Date.now() / 1000) {
  const from = Math.max(1, earliest - now);
  return latest === null ? `${duration(Math.round(from))} or more` : durations(from, Math.max(1, latest - now));
}

/** `14:03 today`, `14:03 yesterday`, `3 Nov, 14:03`, `3 Nov 2024, 14:03`. `seconds`: Unix time. */
export function clock(seconds, now = new Date()) {
  const time = new Date(seconds * 1000);
  const at = time.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const days = Math.round((midnight - new Date(time).setHours(0, 0, 0, 0)) / (DAY * 1000));
  if (days === 0) return `${at} today`;
  if (days === 1) return `${at} yesterday`;
  const year = time.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return `${time.toLocaleDateString("en-GB", { day: "numeric", month: "short", year })}, ${at}`;
}

/** The time of day with seconds, for lines of a log. */
export const timeOfDay = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

/** `2026-11-03 14:03:20 UTC`. */
export const utc = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** `812 B`, `1.2 MB`, `4.8 GB`: powers of ten, as disks are sold. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= size) return `${short.format(value / size)} ${unit}`;
  }
  return `${value} B`;
}

/** `37 %`. `fraction`: 0 to 1. */
export const percent = (fraction) => `${Math.round(100 * fraction)} %`;

const SPELLED = { n_epochs: "Epochs", gpus: "GPUs", gguf: "GGUF", rslora: "rsLoRA", neftune_alpha: "NEFTune alpha" };

/** `learning_rate` as `Learning rate`. */
export function sentence(name) {
  return SPELLED[name] ?? capitalized(name.replaceAll("_", " "));
}

export const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** `1 job`, `2 jobs`. */
export const plural = (number, noun) => `${plain.format(number)} ${noun}${number === 1 ? "" : "s"}`;

const TERMS = {
  dpo: "DPO", kto: "KTO", orpo: "ORPO", simpo: "SimPO", ppo: "PPO", grpo: "GRPO", reward: "reward model",
  lora: "LoRA", dora: "DoRA", qlora: "QLoRA", ia3: "(IA)³", full: "full fine-tuning",
};

/** A method or a technique as the field writes it: `dpo` as `DPO`, `prefix_tuning` as `prefix tuning`. */
export const term = (name) => TERMS[name] ?? name.replaceAll("_", " ");
