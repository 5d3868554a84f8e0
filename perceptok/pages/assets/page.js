"use strict";
(() => {
  // Everything that comes from outside goes through textContent and setAttribute: it stays text.
  const CASES = JSON.parse(document.getElementById("cases").textContent);
  const VERDICTS = ["right", "wrong", "unparsed"];
  const CELLS = 10;
  const LONG = 6000;
  const [LARGE, SMALL] = [480, 200];
  const HUES = ["#ffb020", "#38bdf8", "#a3e635", "#f472b6", "#c084fc", "#2dd4bf", "#fb923c", "#facc15"];
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "circle", "line", "text", "path"].includes(tag);
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else if (name === "text") node.textContent = value;
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const stored = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* a page without storage forgets */ } },
  };

  // Cases -----------------------------------------------------------------------------------------------------------

  CASES.forEach((item, number) => {
    item.number = number;
    item.facts = item.facts || [];
    item.has = item.has || [];
    item.search = [item.name, item.prompt, item.text, item.verdict, item.invalid ? "invalid" : null, ...item.facts.map(([name, value]) => `${name}: ${value}`)]
      .filter(Boolean).join("\n").toLowerCase();
  });
  const judged = CASES.some((item) => item.verdict);
  const CHIPS = [...(judged ? VERDICTS : []), ...(judged || CASES.some((item) => item.invalid) ? ["invalid"] : [])];
  const matches = (item, chip) => !chip || (chip === "invalid" ? Boolean(item.invalid) : item.verdict === chip);
  const sortable = [...new Set(CASES.flatMap((item) => item.facts.filter((fact) => typeof fact[1] === "number").map((fact) => fact[0])))];
  const hasSummary = byId("summary").childElementCount > 0;
  const state = { view: "summary", verdict: null, query: "", order: "", shown: CASES, current: 0 };

  const factOf = (item, name) => (item.facts.find((fact) => fact[0] === name) || [])[1];
  const uri = (item, kind) => byId(`${kind}-${item.number}`).textContent;
  const shownAs = (value) => typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value ?? "–");

  function select() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = CASES.filter((item) => matches(item, state.verdict) && words.every((word) => item.search.includes(word)));
    if (state.order) {
      const [name, sign] = [state.order.slice(1), state.order[0] === "-" ? -1 : 1];
      const key = (item) => { const value = factOf(item, name); return typeof value === "number" ? sign * value : Infinity; };
      matching.sort((a, b) => key(a) - key(b) || a.number - b.number);
    }
    state.shown = matching;
    if (!matching.includes(CASES[state.current])) state.current = matching.length ? matching[0].number : -1;
    fillList();
    fillGallery();
    show();
  }

  // Controls --------------------------------------------------------------------------------------------------------

  const icon = (path) => make("svg", { viewBox: "0 0 24 24" }, make("path", { d: path }));
  const tabs = new Map();
  const filters = new Map();
  const hasLayer = CASES.some((item) => item.boxes || item.trueBoxes || (item.markers && !(item.marked && item.has.length === 1)));
  const layer = make("button", { class: "toggle", type: "button", title: "Boxes and markers over the images (l)", text: "Overlay", "aria-pressed": "true", on: { click: turnLayer } });

  function turnLayer() {
    layer.setAttribute("aria-pressed", String(!document.documentElement.toggleAttribute("data-plain")));
  }
  const search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search cases", on: { input: () => { state.query = search.value; select(); } } });

  function controls() {
    const bar = byId("controls");
    const strip = make("div", { class: "tabs", role: "group", "aria-label": "View" });
    const views = [["gallery", "Images", CASES.length], ["cases", "Cases", CASES.length], ["summary", "Summary", hasSummary]];
    for (const [name, label] of views.filter((view) => view[2])) {
      const tab = make("button", { type: "button", text: label, on: { click: () => { state.view = name; show(); } } });
      tabs.set(name, tab);
      strip.append(tab);
    }
    bar.append(strip);
    if (CHIPS.length) {
      for (const name of [null, ...CHIPS]) {
        const count = CASES.filter((item) => matches(item, name)).length;
        const chip = make("button", { class: "filter", type: "button", on: { click: () => choose(name) } },
          name ? make("i", { class: name }) : null, name || "all", make("b", { text: count }));
        filters.set(name, chip);
        bar.append(chip);
      }
    }
    bar.append(make("span", { class: "space" }));
    if (hasLayer) bar.append(layer);
    if (CASES.length) {
      bar.append(search);
      if (sortable.length) {
        const order = make("select", { "aria-label": "Order of cases", on: { change: () => { state.order = order.value; select(); } } }, make("option", { value: "", text: "as given" }));
        for (const name of sortable) order.append(make("option", { value: `+${name}`, text: `${name} ↑` }), make("option", { value: `-${name}`, text: `${name} ↓` }));
        bar.append(order);
      }
      bar.append(make("button", { class: "icon", type: "button", title: "Keys (?)", "aria-label": "Keys", text: "?", on: { click: help } }));
    }
    bar.append(make("button", { class: "icon", type: "button", id: "theme", title: "Light or dark (t)", "aria-label": "Light or dark", on: { click: turnTheme } },
      icon("M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z")));
  }

  function choose(verdict) {
    if (!CHIPS.includes(verdict) && (verdict !== null || !CHIPS.length)) return;
    state.verdict = verdict;
    if (state.view === "summary") state.view = "cases";
    select();
  }

  function setTheme(theme) { document.documentElement.dataset.theme = theme; }
  function turnTheme() {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(theme);
    stored.set("perceptok-theme", theme);
  }

  // List and gallery ------------------------------------------------------------------------------------------------

  const list = make("nav", { id: "list", class: "card", "aria-label": "Cases" });
  const detail = make("section", { id: "detail", "aria-live": "polite" });
  const casesView = make("section", { id: "cases-view" }, list, detail);
  const gallery = make("section", { id: "gallery" });
  byId("main").append(gallery, casesView);

  const none = () => make("p", { class: "empty", text: "No case matches." });
  const dot = (item) => CHIPS.length ? make("i", { class: judged ? `${item.verdict || "none"}${item.invalid ? " flagged" : ""}` : item.invalid ? "invalid" : "none" }) : null;
  const numberOf = (item) => Number(item.dataset.number);

  function fillList() {
    const fact = state.order.slice(1);
    list.replaceChildren(...state.shown.map((item) => make("button", { class: "row", type: "button", "data-number": item.number, title: item.name },
      dot(item), make("span", { text: item.name }), fact ? make("small", { text: shownAs(factOf(item, fact)) }) : null)));
    if (!state.shown.length) list.append(none());
  }

  // A picture is decoded when its card comes near the window.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((item) => item.isIntersecting)) {
      near.unobserve(entry.target);
      picture(CASES[numberOf(entry.target)], entry.target.firstElementChild);
    }
  }, { rootMargin: "600px" });

  function picture(item, place) {
    const kinds = ["image", "depth", "teacher"].filter((kind) => item.has.includes(kind));
    place.append(...kinds.slice(0, 1).map((kind) => make("img", { src: uri(item, kind), alt: "", class: kind === "image" ? null : "map" })));
    if (kinds.length) place.append(overlay(item, 260, "fit", kinds[0] === "image"));
    else if (item.text || item.facts.length) place.append(make("p", { text: item.text || item.facts.map(([name, value]) => `${name}: ${shownAs(value)}`).join("\n") }));
  }

  function fillGallery() {
    near.disconnect();
    const cards = state.shown.map((item) => make("button", { class: "thumb", type: "button", "data-number": item.number, title: item.name },
      make("div", { class: "pic" }), make("div", { class: "what" }, dot(item), make("span", { text: item.name }))));
    gallery.replaceChildren(...cards);
    if (!cards.length) gallery.append(none());
    cards.forEach((card) => near.observe(card));
  }

  for (const place of [list, gallery]) {
    place.addEventListener("click", (event) => {
      const hit = event.target.closest("[data-number]");
      if (!hit) return;
      state.view = "cases";
      state.current = numberOf(hit);
      show();
    });
  }

  // One case --------------------------------------------------------------------------------------------------------

  // `scale`: how many of the overlay's units the longer side has; letters and lines keep their size on small pictures.
  // `onImage`: the picture below is the image, which may show the markers itself.
  function overlay(item, scale, labels, onImage) {
    const [width, height] = item.frame || [1, 1];
    const [trueWidth, trueHeight] = item.size || item.frame || [1, 1];
    // The overlay has the picture's proportions, so that circles stay round in a squashed frame.
    const [sx, sy] = [trueWidth / width, trueHeight / height];
    const unit = Math.max(trueWidth, trueHeight) / scale;
    const svg = make("svg", { viewBox: `0 0 ${trueWidth} ${trueHeight}`, preserveAspectRatio: labels === "fit" ? "xMidYMid meet" : "none" });
    const box = (corners, kind, label, hue) => {
      const [x, y, w, h] = [corners[0] * sx, corners[1] * sy, (corners[2] - corners[0]) * sx, (corners[3] - corners[1]) * sy];
      const edge = { x, y, width: Math.max(w, unit), height: Math.max(h, unit) };
      const group = make("g", { class: `box ${kind}`, style: `--hue:${hue}` }, make("rect", { class: "shade", ...edge }), make("rect", { class: "edge", ...edge }));
      if (label && labels === "all") {
        const wide = (7 * label.length + 9) * unit;
        group.append(make("rect", { class: "tag", x, y, width: wide, height: 17 * unit }),
          make("text", { x: x + 4.5 * unit, y: y + 9 * unit, style: `font-size:${12 * unit}px`, text: label }));
      }
      return group;
    };
    for (const corners of item.trueBoxes || []) svg.append(box(corners, "true", "", "#ffffff"));
    (item.boxes || []).forEach((corners, at) => svg.append(box(corners, "", (item.labels || [])[at] || String(at + 1), HUES[at % HUES.length])));
    for (const [letter, x, y] of onImage && item.marked ? [] : item.markers || []) {
      const [cx, cy, r] = [x * sx, y * sy, 7 * unit];
      const up = cy - 29 * unit > 0 ? -1 : 1;
      const [wide, ty] = [(8.5 * Math.max(letter.length, 1) + 8) * unit, cy + up * 20 * unit];
      const middle = Math.max(wide / 2, Math.min(trueWidth - wide / 2, cx));  // a label stays inside the picture
      svg.append(make("g", { class: "marker" }, make("circle", { class: "halo", cx, cy, r }), make("circle", { cx, cy, r }),
        make("rect", { x: middle - wide / 2, y: ty - 9 * unit, width: wide, height: 18 * unit }),
        make("text", { x: middle, y: ty, style: `font-size:${13 * unit}px`, text: letter })));
    }
    return svg;
  }

  function crosshair(svg, item) {
    const [width, height] = item.size || [1, 1];
    const group = make("g", { class: "cross", visibility: "hidden" }, make("rect", {}), make("line", {}), make("line", {}));
    svg.append(group);
    const [cell, across, down] = group.children;
    const set = (node, values) => Object.entries(values).forEach(([name, value]) => node.setAttribute(name, value));
    return (at) => {
      group.setAttribute("visibility", at ? "visible" : "hidden");
      if (!at) return;
      const [x, y] = [at[0] * width, at[1] * height];
      set(across, { x1: 0, x2: width, y1: y, y2: y });
      set(down, { x1: x, x2: x, y1: 0, y2: height });
      set(cell, { x: Math.floor(at[0] * CELLS) * width / CELLS, y: Math.floor(at[1] * CELLS) * height / CELLS, width: width / CELLS, height: height / CELLS });
      cell.setAttribute("visibility", codesOf(item) ? "inherit" : "hidden");
    };
  }

  function values(source, take) {
    const image = new Image();
    image.onload = () => {
      const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const brush = canvas.getContext("2d", { willReadFrequently: true });
      brush.drawImage(image, 0, 0);
      const { data, width, height } = brush.getImageData(0, 0, canvas.width, canvas.height);
      take(([x, y]) => {
        const place = 4 * (Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width)));
        return data[place + 3] ? (data[place] / 255).toFixed(2) : "–";
      });
    };
    image.src = source;
  }

  const codesOf = (item) => item.codes && item.codes.length === CELLS * CELLS ? item.codes : null;

  function seen(item) {
    const part = make("div", { class: "seen card" });
    const readout = make("span", { class: "readout" });
    const readers = new Map();
    const crosses = [];
    const ratio = item.size ? item.size[0] / item.size[1] : 1;
    const point = (at) => {
      crosses.forEach((move) => move(at));
      light(at && Math.floor(at[1] * CELLS) * CELLS + Math.floor(at[0] * CELLS));
      if (!at) return readout.replaceChildren();
      const [width, height] = item.frame || item.size;
      const parts = [`x ${Math.round(at[0] * width)} y ${Math.round(at[1] * height)}`];
      for (const [name, read] of readers) parts.push(`${name} ${read(at)}`);
      if (codesOf(item)) parts.push(`code ${item.codes[Math.floor(at[1] * CELLS) * CELLS + Math.floor(at[0] * CELLS)]}`);
      readout.textContent = parts.join("  ·  ");
    };
    const stage = (kind, scale, onImage, ...images) => {
      const svg = scale ? overlay(item, scale, scale === LARGE ? "all" : "letters", onImage) : make("svg", { viewBox: `0 0 ${item.size[0]} ${item.size[1]}`, preserveAspectRatio: "none" });
      crosses.push(crosshair(svg, item));
      const place = (event) => {
        const edge = node.getBoundingClientRect();
        const within = (value) => Math.min(0.9999, Math.max(0, value));
        point([within((event.clientX - edge.left) / edge.width), within((event.clientY - edge.top) / edge.height)]);
      };
      const node = make("div", { class: `stage ${kind}`, style: `max-width:calc(62vh * ${ratio})`, on: { pointermove: place, pointerleave: () => point(null) } }, ...images, svg);
      return node;
    };
    const image = (kind, name) => make("img", { src: uri(item, kind), alt: name, class: kind === "image" ? null : "map", style: `aspect-ratio:${ratio}` });
    if (item.has.includes("image")) part.append(make("figure", {}, stage("", LARGE, true, image("image", item.name))));
    else if (!item.has.length) part.append(make("p", { class: "note", text: "This case has no image." }));
    const maps = make("div", { class: item.has.includes("image") ? "maps" : "maps alone" });
    const named = [["depth", codesOf(item) ? "decoded from the tokens" : "depth"], ["teacher", "teacher"]].filter(([kind]) => item.has.includes(kind));
    for (const [kind, name] of named) {
      maps.append(make("figure", {}, stage("", item.has.length === 1 ? LARGE : SMALL, false, image(kind, name)), make("figcaption", { text: name })));
      values(uri(item, kind), (read) => readers.set(kind === "depth" ? "decoded" : "teacher", read));
    }
    if (named.length === 2) {
      const [below, above] = named.map(([kind]) => make("img", { src: uri(item, kind), alt: "", style: `aspect-ratio:${ratio}` }));
      above.classList.add("diff");
      maps.append(make("figure", {}, stage("error", 0, false, below, above), make("figcaption", { text: "difference, white from 0.25" })));
    }
    if (named.length) {
      const stops = [...document.querySelectorAll("#turbo feComponentTransfer > *")].map((node) => node.getAttribute("tableValues").split(" ").map((value) => Math.round(255 * value)));
      const colours = stops[0].map((_, at) => `rgb(${stops.map((channel) => channel[at]).join(" ")})`);
      const grey = document.documentElement.hasAttribute("data-grey");
      part.append(maps, make("div", { class: "legend" }, "far", make("i", { style: `background:linear-gradient(90deg, ${grey ? "#000, #fff" : colours.join(", ")})` }), "near"));
    }
    if (item.has.length) part.append(readout);
    return part;
  }

  function light(cell) {
    detail.querySelectorAll(".codes .lit").forEach((node) => node.classList.remove("lit"));
    if (cell !== null && cell !== undefined) detail.querySelectorAll(".codes").forEach((grid) => grid.children[cell]?.classList.add("lit"));
  }

  // Text: a run of depth tokens becomes a fold, a coordinate token a chip -------------------------------------------

  const TOKENS = /((?:<DEPTH_(?:START|END|[0-9]+)>)+)|<PIXEL_([0-9]+)>/g;

  function words(text) {
    const node = make("div", { class: "words" });
    const fill = (part) => {
      let place = 0;
      for (const match of part.matchAll(TOKENS)) {
        node.append(part.slice(place, match.index));
        if (match[1]) node.append(...blocks(match[1]));
        else node.append(make("span", { class: Number(match[2]) < 336 ? "pixel" : "pixel bad", title: match[0], text: match[2] }));
        place = match.index + match[0].length;
      }
      node.append(part.slice(place));
    };
    if (text.replace(TOKENS, "").length <= LONG) { fill(text); return [node]; }
    let cut = LONG;
    const tail = text.slice(0, cut).lastIndexOf("<");
    if (cut - tail < 16 && tail > 0) cut = tail;
    fill(text.slice(0, cut));
    const more = make("button", { class: "more", type: "button", text: `show the other ${(text.length - cut).toLocaleString()} characters`, on: { click: () => { node.replaceChildren(); fill(text); more.remove(); } } });
    return [node, more];
  }

  function blocks(run) {
    const pieces = run.match(/<DEPTH_START>(?:<DEPTH_[0-9]+>)*(?:<DEPTH_END>)?|(?:<DEPTH_[0-9]+>)+(?:<DEPTH_END>)?|<DEPTH_END>/g) || [];
    return pieces.map((piece) => {
      const codes = [...piece.matchAll(/<DEPTH_([0-9]+)>/g)].map((match) => Number(match[1]));
      const whole = piece.startsWith("<DEPTH_START>") && piece.endsWith("<DEPTH_END>");
      const good = whole && codes.length === CELLS * CELLS && codes.every((code) => code < 128);
      const label = good ? "depth block, 100 tokens" : `${whole ? "depth block" : "broken depth block"}, ${codes.length} of 100 codes`;
      const fold = make("span", { class: good ? "fold" : "fold bad" });
      const turn = make("button", { type: "button", text: label, "aria-expanded": "false", on: { click: () => {
        const open = fold.classList.toggle("open");
        turn.setAttribute("aria-expanded", String(open));
        if (open) fold.append(make("span", { class: "codes" }, ...codes.slice(0, 2000).map((code) => make("span", { text: code }))));
        else fold.lastElementChild.remove();
      } } });
      fold.append(turn);
      return fold;
    });
  }

  function said(item) {
    const part = make("div", { class: "said card" });
    if (item.prompt) part.append(make("div", { class: "asked" }, make("h3", { text: "Asked" }), ...words(item.prompt)));
    if (item.text) part.append(make("div", {}, make("h3", { text: "Answered" }), ...words(item.text)));
    if (codesOf(item) && !(item.text || "").includes("<DEPTH_START>")) {
      part.append(make("div", {}, make("h3", { text: "Codes" }), make("div", { class: "codes" }, ...item.codes.map((code) => make("span", { text: code })))));
    }
    if (item.facts.length) {
      const facts = make("dl");
      for (const [name, value] of item.facts) facts.append(make("dt", { text: name }), make("dd", { text: shownAs(value) }));
      part.append(make("div", {}, make("h3", { text: "Facts" }), facts));
    }
    return part.childElementCount ? part : null;
  }

  function draw() {
    const item = CASES[state.current];
    if (!item) return detail.replaceChildren(none());
    const at = state.shown.indexOf(item);
    const head = make("div", { class: "headline" }, make("h2", { text: item.name }),
      item.verdict ? make("span", { class: `badge ${item.verdict}`, text: item.verdict }) : null,
      item.invalid ? make("span", { class: "badge invalid", text: "invalid" }) : null,
      make("span", { class: "of", text: `${at + 1} of ${state.shown.length}` }),
      make("button", { class: "step", type: "button", "aria-label": "Previous case", text: "←", on: { click: () => step(-1) } }),
      make("button", { class: "step", type: "button", "aria-label": "Next case", text: "→", on: { click: () => step(1) } }));
    const openFolds = detail.querySelectorAll(".fold.open").length > 0;
    detail.replaceChildren(head, make("div", { class: "body" }, seen(item), said(item)));
    if (openFolds) detail.querySelector(".fold > button")?.click();
    list.querySelector('[aria-current="true"]')?.removeAttribute("aria-current");
    const row = list.children[at];
    row?.setAttribute("aria-current", "true");
    row?.scrollIntoView({ block: "nearest" });
    try { history.replaceState(null, "", `#${item.number + 1}`); } catch { /* some sandboxes have no history */ }
    return undefined;
  }

  function step(by) {
    if (!state.shown.length) return;
    const at = state.shown.indexOf(CASES[state.current]);
    state.current = state.shown[Math.min(state.shown.length - 1, Math.max(0, at + by))].number;
    state.view = "cases";
    show();
  }

  function show() {
    byId("summary").hidden = state.view !== "summary";
    gallery.hidden = state.view !== "gallery";
    casesView.hidden = state.view !== "cases";
    for (const [name, tab] of tabs) tab.setAttribute("aria-pressed", String(name === state.view));
    for (const [name, chip] of filters) chip.setAttribute("aria-pressed", String(name === state.verdict));
    if (state.view === "cases") draw();
  }

  // Keys ------------------------------------------------------------------------------------------------------------

  const KEYS = [["→ j", "next case", () => step(1)], ["← k", "previous case", () => step(-1)], ["Home", "first case", () => step(-CASES.length)], ["End", "last case", () => step(CASES.length)],
    ["s", "summary", () => hasSummary && turn("summary")], ["g", "images", () => turn("gallery")], ["c", "cases", () => turn("cases")],
    ["1", "all", () => choose(null)], ["2", "right", () => choose("right")], ["3", "wrong", () => choose("wrong")], ["4", "unparsed", () => choose("unparsed")], ["5", "invalid", () => choose("invalid")],
    ["o", "open or fold the depth blocks", () => detail.querySelectorAll(".fold > button").forEach((node) => node.click())],
    ["l", "boxes and markers over the images on or off", turnLayer],
    ["m", "maps in colour or grey", () => { document.documentElement.toggleAttribute("data-grey"); show(); }],
    ["t", "light or dark", turnTheme], ["/", "search", () => search.focus()], ["?", "these keys", () => help()]];
  const spelled = { "→": "ArrowRight", "←": "ArrowLeft" };
  const acts = new Map(KEYS.flatMap(([keys, , act]) => keys.split(" ").map((key) => [spelled[key] || key, act])));
  const dialog = make("dialog", {}, make("h2", { text: "Keys" }), make("dl", {}, ...KEYS.flatMap(([keys, what]) => [
    make("dt", {}, ...keys.split(" ").flatMap((key) => [make("kbd", { text: key }), " "])), make("dd", { text: what })])));
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  function help() { if (dialog.open) dialog.close(); else dialog.showModal(); }
  function turn(view) { if (CASES.length || view === "summary") { state.view = view; show(); } }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select")) {
      if (event.key === "Escape" || event.key === "Enter") event.target.blur();
      return;
    }
    const act = CASES.length || event.key === "t" ? acts.get(event.key) : null;
    if (!act) return;
    event.preventDefault();
    act();
  });

  // Start -----------------------------------------------------------------------------------------------------------

  setTheme(stored.get("perceptok-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  controls();
  const asked = Number(location.hash.slice(1)) - 1;
  if (CASES[asked]) { state.current = asked; state.view = "cases"; } else if (CASES.length) state.view = CASES.length > 1 ? "gallery" : "cases";
  select();
  const top = document.querySelector(".top");
  const measure = () => document.documentElement.style.setProperty("--top", `${top.offsetHeight + 20}px`);
  new ResizeObserver(measure).observe(top);
  measure();
})();
