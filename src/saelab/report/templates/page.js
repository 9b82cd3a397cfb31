// Draws the figures from the JSON blocks of the page, in the colours of the reader's theme, and again when it changes.
(() => {
  const paint = (value, css) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? css.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((v) => paint(v, css));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, css)]));
    }
    return value;
  };
  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    for (const block of document.querySelectorAll("script[data-plot]")) {
      const spec = paint(JSON.parse(block.textContent), css);
      const config = { displayModeBar: false, responsive: true, showTips: false };
      window.Plotly.react(document.getElementById(block.dataset.plot), spec.data, spec.layout, config);
    }
  };
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
