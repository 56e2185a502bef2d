// Draws the figures of the page, and shows another one, or fewer lines, when asked to.
"use strict";

(async () => {
  const root = document.documentElement;
  const trouble = (words) => {
    const place = document.getElementById("trouble");
    place.textContent = words;
    place.hidden = false;
    root.dataset.error = words;
  };
  window.addEventListener("error", (event) => trouble(`Something went wrong: ${event.message}`));
  window.addEventListener("unhandledrejection", (event) => trouble(`Something went wrong: ${event.reason}`));
  const element = (id) => document.getElementById(id);
  const unpacked = (id) => {
    const bytes = Uint8Array.from(atob(element(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  const alone = element("plotly"); // the page is one file: texts in it are base64 of a gzip
  if (alone) {
    if (!window.DecompressionStream) {
      trouble("This browser is from before 2023 and cannot unpack the plots; the tables are whole.");
      return;
    }
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
  }
  if (!window.Plotly) {
    trouble("plotly.min.js, which draws the plots, is not in the folder of this page.");
    return;
  }

  const figures = JSON.parse(alone ? await unpacked("figures") : element("figures").textContent);
  const panels = [...document.querySelectorAll("[data-panel]")];
  const buttons = [...document.querySelectorAll("[data-series]")];
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const hidden = new Set(); // series, by index
  const PRINTED = 680; // pixels: as wide as an A4 page between its margins
  const LINES = 400; // the height of plots of lines, which may be lower: two on a printed page
  let printing = false;

  const dressed = (layout, count) => {
    const dark = night.matches && !printing;
    const [ink, grid] = dark ? ["#e4e7eb", "#3a414a"] : ["#1d2228", "#dfe3e8"];
    const look = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
    look.font = { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily };
    for (const name of ["xaxis", "yaxis"]) {
      look[name] = { gridcolor: grid, linecolor: grid, ...layout[name] };
    }
    const narrow = window.innerWidth < 600 && !printing;
    look.modebar = { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink };
    look.dragmode = touch ? false : "zoom"; // a finger scrolls
    if (layout.height === LINES) look.height = printing ? 310 : narrow ? 340 : LINES;
    if (printing) look.width = count > 1 ? PRINTED / 2 - 10 : PRINTED;
    return look;
  };

  const visible = (panel, traces) =>
    panel.querySelector(".legend")
      ? traces.map((trace) => ({ ...trace, visible: !hidden.has(trace.meta) }))
      : traces;

  const draw = (panel) => {
    const shown = figures[panel.dataset.panel][panel.querySelector(".choose")?.value ?? 0];
    panel.querySelectorAll(".plot").forEach((plot, i) => {
      plot.hidden = i >= shown.length;
      if (plot.hidden) return;
      const { data, layout } = structuredClone(shown[i]);
      Plotly.react(plot, visible(panel, data), dressed(layout, shown.length), {
        responsive: true,
        displaylogo: false,
        displayModeBar: touch ? false : "hover",
        modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // none that uploads
      });
    });
  };
  const drawAll = () => panels.forEach(draw);

  const show = () => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.series))));
    }
    panels.filter((panel) => panel.querySelector(".legend")).forEach(draw);
  };
  for (const button of buttons) {
    const series = Number(button.dataset.series);
    button.addEventListener("click", () => {
      if (!hidden.delete(series)) hidden.add(series);
      show();
    });
    button.addEventListener("dblclick", () => {
      hidden.clear();
      for (const other of buttons) {
        const index = Number(other.dataset.series);
        if (index !== series) hidden.add(index);
      }
      show();
    });
  }
  for (const panel of panels) {
    panel.querySelector(".choose")?.addEventListener("input", (event) => {
      const output = panel.querySelector("output");
      if (output) output.textContent = output.dataset.labels.split("\n")[event.target.value];
      draw(panel);
    });
  }

  const print = (now) => () => {
    printing = now;
    drawAll();
  };
  window.addEventListener("beforeprint", print(true));
  window.addEventListener("afterprint", print(false));
  night.addEventListener("change", drawAll);
  drawAll();
  root.dataset.drawn = "true";
})();
