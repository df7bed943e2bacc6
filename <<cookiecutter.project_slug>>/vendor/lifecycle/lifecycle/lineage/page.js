// The lineage page: a graph on a canvas, its facts in a panel. Plain JavaScript, no library, no request.
// Text from the graph reaches the page by textContent and fillText alone, so nothing in it can run.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const PLURAL = {
    file: "files", source: "sources", model: "SQL models", column: "columns", features: "feature tables", run: "training runs",
    trained: "trained models", version: "MLflow versions", release: "releases", approval: "approvals", channel: "channels",
  };
  const SINGULAR = {
    model: "SQL model", features: "feature table", run: "training run", trained: "trained model", version: "MLflow version",
  };
  // Of a node and the space around it, before zoom.
  const NARROW = 96, WIDE = 200, HEIGHT = 36, ROW = 44, GAP = 60, SUBGAP = 18, HEAD = 26;
  const names = new Intl.Collator("en", { numeric: true });

  // ---- The graph ---------------------------------------------------------------------------------------------------

  const byId = new Map();
  const nodes = data.nodes.map((each) => {
    const node = { ...each, in: [], out: [], releases: new Set(each.releases), depth: 0, rank: 0, x: 0, y: 0 };
    [node.first, node.second] = twoLines(node);
    node.letters = Array.from(node.first); // not .slice() of the text: that would cut an emoji in two
    byId.set(node.id, node);
    return node;
  });
  nodes.sort((a, b) => names.compare(a.label, b.label) || (a.id < b.id ? -1 : 1));
  const allEdges = data.edges.map(([from, to]) => ({ from: byId.get(from), to: byId.get(to) }));

  /** Two lines, the first with what tells a node from its neighbours: `data/raw/orders/2013-06.parquet` is 2013-06. */
  function twoLines({ kind, label, facts }) {
    const split = {
      file: /^(?<second>.+)\/(?<first>[^/]+?)(\.[a-z0-9]+)?$/, features: /^(?<second>.+)\/(?<first>[^/]+?)(\.[a-z0-9]+)?$/, source: /^(?<second>.+)\.(?<first>.+)$/,
      model: /^(?<second>.+)\.(?<first>.+)$/, column: /^(?<second>.+)\.(?<first>.+)$/, run: /^(?<second>.+) (?<first>\S+)$/,
      version: /^(?<second>.+) (?<first>version \S+)$/, approval: /^(?<first>.+) <(?<second>.+)>$/, channel: /^(?<first>\S+) (?<second>.+)$/,
    }[kind];
    const parts = split && label.match(split)?.groups;
    return parts ? [parts.first, parts.second] : [label, String(facts.at || "").slice(0, 16).replace("T", " ")];
  }

  // ---- What is shown -----------------------------------------------------------------------------------------------

  // The releases that are looked at: all, one, or two that are compared.
  let releaseA = "", releaseB = "";
  let shown = [], edges = [], bands = [], size = { width: 0, height: 0 };
  // The edges as paths, by colour: made once, drawn in each frame.
  let lines = {};
  // The chosen node, and what is up- and downstream of it.
  let chosen = null, up = new Set(), down = new Set(), upLines = null, downLines = null;
  let hits = new Set();

  const isShown = (release) => (!releaseA && !releaseB) || release === releaseA || release === releaseB;
  const comparing = () => Boolean(releaseA && releaseB && releaseA !== releaseB);

  /** Of two releases compared: "a" or "b" for what is in one of them only. */
  function mark(node) {
    if (!comparing()) return "";
    return node.releases.has(releaseA) ? (node.releases.has(releaseB) ? "both" : "a") : "b";
  }

  function show() {
    shown = nodes.filter((node) => [...node.releases].some(isShown));
    const here = new Set(shown);
    for (const node of shown) node.in = [], node.out = [];
    edges = allEdges.filter(({ from, to }) => here.has(from) && here.has(to) && sharesRelease(from, to));
    for (const edge of edges) edge.from.out.push(edge), edge.to.in.push(edge);
    layOut();
    hits = new Set();
    choose(here.has(chosen) ? chosen : null);
  }

  function sharesRelease(one, other) {
    for (const release of one.releases) if (isShown(release) && other.releases.has(release)) return true;
    return false;
  }

  // ---- Layout: layers from left to right by kind; a model that reads a model is a layer further on -------------------

  function layOut() {
    const layers = layersOf(shown);
    for (const layer of layers) layer.nodes.forEach((node, i) => (node.rank = (i + 0.5) / layer.nodes.length));
    // Barycentres: each node moves to the mean of its neighbours on one side, to and fro. Ties stay in order of name.
    for (let sweep = 0; sweep < 8; sweep++) {
      const [side, end] = sweep % 2 ? ["out", "to"] : ["in", "from"];
      for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
        for (const node of layer.nodes) {
          const near = node[side];
          node.weight = near.length ? near.reduce((sum, edge) => sum + edge[end].rank, 0) / near.length : node.rank;
        }
        layer.nodes.sort((a, b) => a.weight - b.weight || names.compare(a.label, b.label) || (a.id < b.id ? -1 : 1));
        layer.nodes.forEach((node, i) => (node.rank = (i + 0.5) / layer.nodes.length));
      }
    }
    // A layer too tall to be seen at once stands in several columns.
    const tallest = Math.max(36, Math.ceil(2 * Math.sqrt(shown.length)));
    let x = 0;
    bands = [];
    size.height = 0;
    for (const { kind, nodes: members } of layers) {
      const columns = Math.ceil(members.length / tallest), rows = Math.ceil(members.length / columns);
      // As wide as its names need, by their letters and not by a font: the same graph has the same places everywhere.
      const need = (node) => Math.max(node.letters.length * 7.2, Math.min(node.second.length * 5.4, 110)) + 26;
      const wide = Math.max(NARROW, Math.min(WIDE, members.reduce((most, node) => Math.max(most, need(node)), 0)));
      members.forEach((node, i) => {
        node.width = wide;
        const column = Math.floor(i / rows), inColumn = Math.min(rows, members.length - column * rows);
        node.x = x + column * (wide + SUBGAP);
        node.y = ((i % rows) - inColumn / 2) * ROW;
      });
      const width = columns * (wide + SUBGAP) - SUBGAP, last = bands.at(-1);
      if (last && last.kind === kind) last.width = x + width - last.x, last.count += members.length;
      else bands.push({ kind, x, width, count: members.length });
      x += width + GAP;
      size.height = Math.max(size.height, rows * ROW);
    }
    size.width = Math.max(0, x - GAP);
    const touches = (edge, state) => mark(edge.from) === state || mark(edge.to) === state;
    lines = { edge: pathOf(edges.filter((edge) => !touches(edge, "a") && !touches(edge, "b"))) };
    for (const state of ["a", "b"]) lines[state] = pathOf(edges.filter((edge) => touches(edge, state)));
  }

  function layersOf(members) {
    const same = (edge) => edge.from.kind === edge.to.kind;
    for (const node of members) node.depth = 0, node.waits = node.in.filter(same).length;
    const ready = members.filter((node) => !node.waits);
    for (const node of ready) { // grows while it is walked
      for (const { to } of node.out.filter(same)) {
        to.depth = Math.max(to.depth, node.depth + 1);
        if (!--to.waits) ready.push(to);
      }
    }
    const layers = new Map();
    for (const node of members) {
      const key = data.kinds.indexOf(node.kind) * 1e6 + node.depth;
      if (!layers.has(key)) layers.set(key, { kind: node.kind, nodes: [] });
      layers.get(key).nodes.push(node);
    }
    return [...layers.keys()].sort((a, b) => a - b).map((key) => layers.get(key));
  }

  function pathOf(some) {
    const path = new Path2D();
    for (const { from, to } of some) {
      const [x1, y1, x2, y2] = [from.x + from.width, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
      const bend = Math.max(30, Math.min(160, Math.abs(x2 - x1) / 2));
      path.moveTo(x1, y1);
      path.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
    }
    return path;
  }

  // ---- Choosing ----------------------------------------------------------------------------------------------------

  /** What a node came from ("in") or led to ("out"). Release by release: a source that two releases share does not
      make the files of the one a cause of the other. */
  function reach(start, side) {
    const end = side === "in" ? "from" : "to";
    const found = new Set(), along = new Set();
    for (const release of start.releases) {
      if (!isShown(release)) continue;
      const seen = new Set([start]), todo = [start];
      while (todo.length) {
        for (const edge of todo.pop()[side]) {
          const next = edge[end];
          if (!next.releases.has(release)) continue;
          along.add(edge);
          if (!seen.has(next)) seen.add(next), found.add(next), todo.push(next);
        }
      }
    }
    return [found, along];
  }

  function choose(node, centre = false) {
    if (node !== chosen) address(node);
    chosen = node;
    [up, down, upLines, downLines] = [new Set(), new Set(), null, null];
    if (node) {
      let along;
      [up, along] = reach(node, "in");
      upLines = pathOf(along);
      [down, along] = reach(node, "out");
      downLines = pathOf(along);
      $("said").textContent = `${kindOf(node)} ${node.label}: ${up.size} upstream, ${down.size} downstream`;
      if (centre) centreOn(node);
    }
    fillPanel();
    redraw();
  }

  /** The address names the chosen node, so that it can be sent to somebody. */
  function address(node) {
    const hash = node ? `#${encodeURIComponent(node.id)}` : "#";
    try {
      if (hash !== location.hash) history.replaceState(history.state, "", hash);
    } catch { /* within another page, as in MLflow, there may be no address to change */ }
  }

  function followAddress() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* it is as it is */ }
    if (!id || (chosen && chosen.id === id)) return;
    const node = byId.get(id);
    if (!node) $("said").textContent = `There is no node ${id}`;
    else goTo(node);
  }

  /** Choose a node and bring it into view, showing all releases if it is not of those looked at. */
  function goTo(node) {
    if (!shown.includes(node)) {
      $("a").value = releaseA = $("b").value = releaseB = "";
      show();
    }
    choose(node, true);
  }

  // ---- Camera ------------------------------------------------------------------------------------------------------

  const canvas = $("canvas"), context = canvas.getContext("2d");
  let camera = { x: 0, y: 0, zoom: 1 }, view = { width: 1, height: 1 };

  function fit() {
    const [width, height] = [Math.max(size.width, WIDE), Math.max(size.height, ROW)];
    const zoom = Math.min((view.width - 48) / width, (view.height - HEAD - 36) / height, 1.25);
    camera.zoom = Math.max(zoom, 0.01);
    camera.x = (view.width - width * camera.zoom) / 2;
    camera.y = HEAD + (view.height - HEAD) / 2;
    redraw();
  }

  function zoomBy(factor, x = view.width / 2, y = view.height / 2) {
    const zoom = Math.min(4, Math.max(0.02, camera.zoom * factor));
    camera.x = x - ((x - camera.x) * zoom) / camera.zoom; // the point below the mouse stays there
    camera.y = y - ((y - camera.y) * zoom) / camera.zoom;
    camera.zoom = zoom;
    redraw();
  }

  function pan(x, y) {
    camera.x += x;
    camera.y += y;
    redraw();
  }

  function centreOn(node) {
    camera.zoom = Math.max(camera.zoom, 0.8);
    camera.x = view.width / 2 - (node.x + node.width / 2) * camera.zoom;
    camera.y = view.height / 2 - (node.y + HEIGHT / 2) * camera.zoom;
  }

  function nodeAt(x, y) {
    const [atX, atY] = [(x - camera.x) / camera.zoom, (y - camera.y) / camera.zoom];
    return shown.find((node) => atX >= node.x && atX <= node.x + node.width && atY >= node.y && atY <= node.y + HEIGHT) || null;
  }

  // ---- Drawing -----------------------------------------------------------------------------------------------------

  let colours = {}, waiting = 0, drawn = false;

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const own = ["page", "card", "text", "quiet", "line", "band", "edge", "accent", "up", "down", "hit", "a", "b"];
    for (const name of [...own, ...data.kinds]) colours[name] = style.getPropertyValue(`--${name}`).trim();
    colours.both = colours.quiet;
    redraw();
  }

  function redraw() {
    waiting = waiting || requestAnimationFrame(draw);
  }

  function draw() {
    waiting = 0;
    const ratio = window.devicePixelRatio || 1, { x, y, zoom } = camera;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.page;
    context.fillRect(0, 0, view.width, view.height);
    context.fillStyle = colours.band;
    for (const band of bands) context.fillRect(x + (band.x - GAP / 4) * zoom, 0, (band.width + GAP / 2) * zoom, view.height);
    context.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * x, ratio * y);
    drawEdges(zoom);
    drawNodes(zoom);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawHeads();
    if (!drawn) requestAnimationFrame(() => performance.mark("drawn"));
    drawn = true;
  }

  function drawEdges(zoom) {
    const stroke = (path, colour, width, alpha) => {
      context.globalAlpha = alpha;
      context.strokeStyle = colour;
      context.lineWidth = width / zoom;
      context.stroke(path);
    };
    const crowd = Math.max(0.25, Math.min(0.8, 300 / (edges.length + 1)));
    for (const [colour, path] of Object.entries(lines)) stroke(path, colours[colour], 1, chosen ? 0.12 : crowd);
    if (upLines) stroke(upLines, colours.up, 1.25, 0.7);
    if (downLines) stroke(downLines, colours.down, 1.25, 0.7);
    context.globalAlpha = 1;
  }

  function drawNodes(zoom) {
    const [left, top] = [-camera.x / zoom - WIDE, -camera.y / zoom - HEIGHT];
    const [right, bottom] = [left + view.width / zoom + WIDE, top + view.height / zoom + HEIGHT];
    const inView = shown.filter((node) => node.x > left && node.x < right && node.y > top && node.y < bottom);
    const isFaint = (node) => chosen && node !== chosen && !up.has(node) && !down.has(node);
    const small = HEIGHT * zoom < 9; // too small for a name: a plain box
    for (const faint of [true, false]) {
      context.globalAlpha = faint ? 0.22 : 1;
      const some = inView.filter((node) => Boolean(isFaint(node)) === faint);
      for (const node of some) drawBox(node, zoom, small);
      if (!small) drawNames(some, zoom);
    }
    context.globalAlpha = 1;
  }

  function drawBox(node, zoom, small) {
    const { x, y, width } = node, state = mark(node);
    const colour = state === "both" ? colours.edge : colours[state || node.kind];
    const rim = node === chosen ? colours.accent : hits.has(node) ? colours.hit : up.has(node) ? colours.up : down.has(node) ? colours.down : "";
    if (rim) {
      const edge = (node === chosen ? 2.5 : 1.25) / Math.min(1, zoom);
      context.fillStyle = rim;
      context.fillRect(x - edge, y - edge, width + 2 * edge, HEIGHT + 2 * edge);
    }
    if (small) {
      context.fillStyle = colour;
      context.fillRect(x, y, width, HEIGHT);
      return;
    }
    if (!rim) {
      context.fillStyle = differs(node) ? colour : colours.line;
      context.fillRect(x - 1, y - 1, width + 2, HEIGHT + 2);
    }
    context.fillStyle = colours.card;
    context.fillRect(x, y, width, HEIGHT);
    context.fillStyle = colour;
    context.fillRect(x, y, 6, HEIGHT);
    if (differs(node)) { // a letter too: not everybody tells the colours apart
      context.fillRect(x + width - 18, y, 18, HEIGHT);
      context.fillStyle = colours.card;
      context.font = "bold 13px system-ui, sans-serif";
      context.fillText(state.toUpperCase(), x + width - 14, y + HEIGHT / 2 + 5);
    }
  }

  const differs = (node) => comparing() && mark(node) !== "both";
  const roomIn = (node) => node.width - (differs(node) ? 34 : 18);

  /** Two lines near by; from further off one line, in larger letters, and smaller again where the name needs it. */
  function drawNames(some, zoom) {
    const near = zoom > 0.8, largest = near ? 12.5 : Math.min(22, 11 / zoom), smallest = Math.min(largest, 8 / zoom);
    let size = 0;
    context.fillStyle = colours.text;
    for (const node of some) {
      if (!node.ems) {
        context.font = "10px system-ui, sans-serif";
        node.ems = (context.measureText(node.first).width || 1) / 10;
        size = 0;
      }
      const room = roomIn(node), fitting = Math.max(smallest, Math.min(largest, Math.floor(room / node.ems)));
      if (fitting !== size) context.font = `${(size = fitting)}px system-ui, sans-serif`;
      const share = room / (node.ems * size);
      const text = share >= 1 ? node.first : `${node.letters.slice(0, Math.max(1, Math.floor(node.letters.length * share) - 1)).join("")}…`;
      context.fillText(text, node.x + 12, node.y + (near && node.second ? 16 : HEIGHT / 2 + size * 0.35));
    }
    if (!near) return;
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = colours.quiet;
    for (const node of some) {
      const most = Math.floor(roomIn(node) / 5.2);
      context.fillText(node.second.length > most ? `${node.second.slice(0, most)}…` : node.second, node.x + 12, node.y + 29);
    }
  }

  function drawHeads() {
    context.fillStyle = colours.card;
    context.globalAlpha = 0.92;
    context.fillRect(0, 0, view.width, HEAD);
    context.globalAlpha = 1;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    for (const { kind, x, width, count } of bands) {
      const from = camera.x + (x - GAP / 4) * camera.zoom, wide = (width + GAP / 2) * camera.zoom;
      context.fillStyle = colours[kind];
      context.fillRect(from, HEAD - 3, wide, 3);
      context.fillStyle = colours.text;
      const [left, right] = [Math.max(0, from), Math.min(view.width, from + wide)];
      const text = [`${PLURAL[kind]} ${count}`, PLURAL[kind], PLURAL[kind].split(" ").at(-1)];
      const fitting = text.find((each) => context.measureText(each).width < right - left + (GAP / 2) * camera.zoom);
      if (fitting) context.fillText(fitting, (left + right) / 2, 16);
    }
    context.textAlign = "left";
  }

  // ---- The panel ---------------------------------------------------------------------------------------------------

  const kindOf = (node) => SINGULAR[node.kind] || node.kind;

  /** An element with attributes and children; strings become text. */
  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "colour") element.style.setProperty("--of", `var(--${value})`);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function fillPanel() {
    $("panel").replaceChildren(...(chosen ? factsOf(chosen) : overview()));
    $("panel").scrollTop = 0;
  }

  function factsOf(node) {
    const state = mark(node);
    const facts = Object.entries(node.facts), isLarge = ([key, value]) => isText(key, value) || isTable(value);
    const section = ([key, value]) => isText(key, value)
      ? [h("h3", {}, words(key), copyButton(value)), h("pre", { tabindex: "0", "aria-label": words(key) }, value)]
      : [h("h3", {}, words(key)), Array.isArray(value) ? tableOf(value) : h("table", {}, ...flat(value).map(([name, each]) => row(name, each, name)))];
    return [
      h("div", { class: "kind" }, h("span", { class: "dot", colour: node.kind }), kindOf(node)),
      h("h2", { dir: "auto" }, ...breakable(node.label)),
      differs(node) ? h("p", { class: "marked", colour: state }, `only in ${state.toUpperCase()}: ${state === "a" ? releaseA : releaseB}`) : null,
      h("div", { class: "reach" },
        h("span", { class: "marked", colour: "up" }, `${up.size} upstream`),
        h("span", { class: "marked", colour: "down" }, `${down.size} downstream`)),
      h("table", { id: "facts" }, ...facts.filter((fact) => !isLarge(fact)).map(([key, value]) => row(key, value)), row("id", node.id), row("releases", [...node.releases])),
      ...facts.filter(isLarge).flatMap(section),
      ...neighbours("comes from", node.in.map((edge) => edge.from)),
      ...neighbours("goes into", node.out.map((edge) => edge.to)),
    ].filter(Boolean);
  }

  const words = (key) => key.replaceAll("_", " ");
  const isText = (key, value) => typeof value === "string" && value !== "" && (key === "sql" || key === "expression" || value.includes("\n"));

  const isTable = (value) => value && typeof value === "object" && Object.values(value).length > 0 && (!Array.isArray(value) || typeof value[0] === "object");

  /** {a: {b: 1}} as [["a.b", 1]]: parameters read best as one list. */
  function flat(value, before = "") {
    return Object.entries(value).flatMap(([key, each]) =>
      each && typeof each === "object" && !Array.isArray(each) && Object.keys(each).length ? flat(each, `${before}${key}.`) : [[before + key, each]]);
  }

  /** A list of things with the same facts, such as gates: one row each. */
  function tableOf(things) {
    const keys = [...new Set(things.flatMap((thing) => Object.keys(thing || {})))];
    const cell = (key, value) => h("td", {}, value && typeof value === "object" ? flat(value).flat().join(" ") : shownValue(key, value));
    return h("table", {}, h("tr", {}, ...keys.map((key) => h("th", { scope: "col" }, words(key)))),
      ...things.map((thing) => h("tr", {}, ...keys.map((key) => cell(key, thing?.[key])))));
  }

  /** Text that may be cut after a dot, a slash or an underscore, and not within a word. */
  const breakable = (text) => String(text).split(/(?<=[._/@-])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

  function row(key, value, name = words(key)) {
    return h("tr", {}, h("th", { scope: "row" }, ...breakable(name)), h("td", {}, shownValue(key, value)));
  }

  function shownValue(key, value) {
    if (value === null || value === undefined || value === "") return h("span", { class: "quiet" }, "none");
    if (value === true || value === false) return value ? "yes" : "no";
    if (typeof value === "number") {
      if (["rows", "size", "nfiles"].includes(key)) return value.toLocaleString("en-US") + (key === "size" ? " bytes" : "");
      return String(Number.isInteger(value) ? value : Number(value.toPrecision(6)));
    }
    if (typeof value === "string") {
      if (!/^[0-9a-f]{32,}$/i.test(value)) return h("span", { dir: "auto" }, ...breakable(value));
      return h("span", {}, h("code", { title: value }, `${value.slice(0, 12)}…`), copyButton(value));
    }
    const values = Array.isArray(value) ? value : flat(value).map((pair) => pair.join(" "));
    if (!values.length) return h("span", { class: "quiet" }, "none");
    const inside = h("ul", { class: "plain" }, ...values.map((each) => h("li", { dir: "auto" }, shownValue(key, each))));
    return values.length > 8 ? h("details", {}, h("summary", {}, `${values.length} of them`), inside) : inside;
  }

  function copyButton(text) {
    const button = h("button", { class: "copy", type: "button", "aria-label": "Copy in full" }, "copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        button.replaceWith(h("code", {}, ` ${text}`)); // no clipboard here: the whole of it, to be marked by hand
      }
    });
    return button;
  }

  function neighbours(title, members) {
    if (!members.length) return [];
    return [h("h3", {}, `${title} (${members.length})`), nodeList(members)];
  }

  function nodeList(members) {
    const button = (node) => h("li", {}, h("button", { class: "node", type: "button", onclick: () => goTo(node) },
      h("span", { class: "dot", colour: node.kind }), h("span", { dir: "auto" }, ...breakable(node.label))));
    const most = 60, list = h("ul", { class: "plain" }, ...members.slice(0, most).map(button));
    if (members.length <= most) return list;
    const more = h("button", { type: "button", onclick: () => { more.remove(); list.append(...members.slice(most).map(button)); } }, `and ${members.length - most} more`);
    return h("div", {}, list, more);
  }

  function overview() {
    const legend = data.kinds.filter((kind) => bands.some((band) => band.kind === kind)).map((kind) => {
      const count = bands.find((band) => band.kind === kind).count;
      return h("tr", {}, h("td", {}, h("span", { class: "kind" }, h("span", { class: "dot", colour: kind }), PLURAL[kind])), h("td", { class: "number" }, String(count)));
    });
    return [
      ...(comparing() ? comparison() : []),
      h("h2", { class: "count" }, `${shown.length.toLocaleString("en-US")} nodes, ${edges.length.toLocaleString("en-US")} edges`),
      h("table", {}, ...legend),
      h("h3", {}, "how to look around"),
      h("p", {}, "Choose a node to see its facts, what it came from and what came of it. Drag to move, turn the wheel to zoom."),
      h("p", {}, h("kbd", {}, "/"), " search  ", h("kbd", {}, "+"), " ", h("kbd", {}, "-"), " zoom  ", h("kbd", {}, "0"), " fit  ",
        h("kbd", {}, "←"), " ", h("kbd", {}, "→"), " follow an edge  ", h("kbd", {}, "Esc"), " clear"),
    ];
  }

  /** The legend of two releases, and what differs: one line for what both have in different versions. */
  function comparison() {
    const of = { a: [], b: [], both: [] };
    for (const node of shown) of[mark(node)].push(node);
    const name = (node) => `${node.kind} ${node.label}`, inA = new Set(of.a.map(name)), inB = new Set(of.b.map(name));
    const byKind = (one, other) => data.kinds.indexOf(one.kind) - data.kinds.indexOf(other.kind);
    const changed = of.b.filter((node) => inA.has(name(node)));
    const item = (state, text, count) => h("tr", {}, h("td", {}, h("span", { class: "kind" }, h("span", { class: "dot", colour: state }), text)), h("td", { class: "number" }, String(count)));
    const section = (title, members) => members.length ? [h("h3", {}, `${title} (${members.length})`), nodeList(members.sort(byKind))] : [];
    return [
      h("h2", {}, "Two releases"),
      h("table", { id: "legend" }, item("a", `only in A: ${releaseA}`, of.a.length), item("b", `only in B: ${releaseB}`, of.b.length), item("quiet", "in both", of.both.length)),
      ...section("in both, in different versions", changed),
      ...section("only in A", of.a.filter((node) => !inB.has(name(node)))),
      ...section("only in B", of.b.filter((node) => !inA.has(name(node)))),
    ];
  }

  // ---- Search ------------------------------------------------------------------------------------------------------

  const search = $("search"), found = $("found");
  let options = [], active = 0;

  function find() {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = asked.length ? shown.filter((node) => asked.every((word) => `${node.label} ${node.id}`.toLowerCase().includes(word))) : [];
    hits = new Set(matches);
    // A name that begins with what was typed is more likely meant than one that holds it somewhere.
    const start = (node) => (node.first.toLowerCase().startsWith(asked[0]) ? 0 : 1);
    options = matches.sort((a, b) => start(a) - start(b)).slice(0, 20);
    active = 0;
    const rows = options.map((node, i) => h("li", { role: "option", id: `option-${i}`, onmousedown: (event) => { event.preventDefault(); pick(i); } },
      h("span", { class: "kind" }, h("span", { class: "dot", colour: node.kind }), kindOf(node)), h("span", { dir: "auto" }, node.label)));
    const more = !matches.length ? "nothing found" : matches.length > options.length ? `and ${matches.length - options.length} more` : "";
    if (more) rows.push(h("li", { class: "note", role: "presentation" }, more));
    found.replaceChildren(...rows);
    openSearch(asked.length > 0);
    $("said").textContent = asked.length ? `${matches.length} found` : "";
    redraw();
  }

  function openSearch(open) {
    found.hidden = !open;
    search.setAttribute("aria-expanded", String(open));
    options.forEach((_, i) => $(`option-${i}`)?.setAttribute("aria-selected", String(i === active)));
    if (open && options.length) search.setAttribute("aria-activedescendant", `option-${active}`);
    else search.removeAttribute("aria-activedescendant");
  }

  function pick(i) {
    if (!options[i]) return;
    openSearch(false);
    goTo(options[i]);
  }

  search.addEventListener("input", find);
  search.addEventListener("blur", () => openSearch(false));
  search.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length) {
      active = (active + step + options.length) % options.length;
      openSearch(true);
      $(`option-${active}`).scrollIntoView({ block: "nearest" });
      event.preventDefault();
    } else if (event.key === "Enter") pick(active);
  });

  function clear() {
    search.value = "";
    find();
    choose(null);
  }

  // ---- Mouse, fingers and keys -------------------------------------------------------------------------------------

  const pointers = new Map();
  let travelled = 0;

  canvas.addEventListener("pointerdown", (event) => {
    if (!pointers.size) travelled = 0;
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return hover(event);
    const others = [...pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    const [x, y] = [event.offsetX - before.offsetX, event.offsetY - before.offsetY];
    travelled += Math.hypot(x, y);
    pointers.set(event.pointerId, event);
    if (others.length) { // two fingers: their distance zooms
      const far = (one) => Math.max(1, Math.hypot(one.offsetX - others[0].offsetX, one.offsetY - others[0].offsetY));
      zoomBy(far(event) / far(before), (event.offsetX + others[0].offsetX) / 2, (event.offsetY + others[0].offsetY) / 2);
    } else if (travelled > 4) { // less is a click by an unsteady hand
      canvas.classList.add("dragged");
      pan(x, y);
    }
  });
  for (const ending of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(ending, (event) => {
      pointers.delete(event.pointerId);
      canvas.classList.remove("dragged");
      if (ending === "pointerup" && travelled <= 4) choose(nodeAt(event.offsetX, event.offsetY));
    });
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    zoomBy(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.002), event.offsetX, event.offsetY);
  }, { passive: false });

  function hover(event) {
    const node = nodeAt(event.offsetX, event.offsetY);
    canvas.classList.toggle("over", Boolean(node));
    canvas.title = node ? node.label : "";
  }

  /** From the chosen node to a neighbour: along an edge, or up and down in its column. */
  function step(key) {
    let to;
    if (key === "ArrowLeft") to = chosen.in[0]?.from;
    else if (key === "ArrowRight") to = chosen.out[0]?.to;
    else {
      const column = shown.filter((node) => node.x === chosen.x).sort((a, b) => a.y - b.y);
      to = column[column.indexOf(chosen) + (key === "ArrowDown" ? 1 : -1)];
    }
    if (to) choose(to, true);
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return clear();
    const typing = event.target.closest?.("input, select, button, aside");
    if (event.key === "/" && !event.target.closest?.("input")) {
      event.preventDefault();
      search.focus();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (move && chosen && !event.shiftKey) step(event.key);
    else if (move) pan(...move);
    else if (event.key === "+" || event.key === "=") zoomBy(1.25);
    else if (event.key === "-") zoomBy(0.8);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });

  $("in").addEventListener("click", () => zoomBy(1.25));
  $("out").addEventListener("click", () => zoomBy(0.8));
  $("fit").addEventListener("click", fit);
  $("clear").addEventListener("click", clear);

  // ---- Beginning ---------------------------------------------------------------------------------------------------

  /** The releases, the newest first, with the channels that serve them now. */
  function fillReleases() {
    const serving = new Map();
    for (const { kind, label, facts, releases } of nodes) {
      if (kind === "channel" && !facts.until) for (const release of releases) serving.set(release, [...(serving.get(release) || []), label.split(" ")[0]]);
    }
    const when = (release) => byId.get(`release:${release}`)?.facts.at || "";
    const all = [...new Set(data.nodes.flatMap((node) => node.releases))].sort((a, b) => (when(a) < when(b) ? 1 : when(a) > when(b) ? -1 : a < b ? -1 : 1));
    for (const [id, none] of [["a", `all (${all.length})`], ["b", "none"]]) {
      $(id).append(h("option", { value: "" }, none), ...all.map((release) => h("option", { value: release }, [release, ...(serving.get(release) || [])].join(", "))));
      $(id).value = ""; // a browser may remember an older choice
      $(id).addEventListener("change", () => {
        [releaseA, releaseB] = [$("a").value, $("b").value];
        show();
        if (search.value) find();
        fit();
      });
    }
  }

  let fitted = false;
  new ResizeObserver(() => {
    const ratio = window.devicePixelRatio || 1;
    view = { width: canvas.clientWidth || 1, height: canvas.clientHeight || 1 };
    canvas.width = Math.round(view.width * ratio);
    canvas.height = Math.round(view.height * ratio);
    if (!fitted) {
      fitted = true;
      fit();
      followAddress();
    }
    cancelAnimationFrame(waiting);
    draw(); // at once: a canvas is empty after its size has changed
  }).observe(canvas);

  window.addEventListener("hashchange", followAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColours);
  readColours();
  fillReleases();
  show();

  // For tests, and for the curious at the console: what is on the screen.
  window.lineage = {
    state: () => ({
      nodes: shown.map((node) => node.id), edges: edges.map(({ from, to }) => [from.id, to.id]),
      chosen: chosen && chosen.id, up: [...up].map((node) => node.id), down: [...down].map((node) => node.id),
      hits: [...hits].map((node) => node.id), marks: Object.fromEntries(shown.map((node) => [node.id, mark(node)])),
      places: shown.map((node) => [node.id, node.x, node.y]), camera: { ...camera },
    }),
    at: (id) => {
      const node = byId.get(id), box = canvas.getBoundingClientRect();
      return [box.left + camera.x + (node.x + node.width / 2) * camera.zoom, box.top + camera.y + (node.y + HEIGHT / 2) * camera.zoom];
    },
  };
})();
