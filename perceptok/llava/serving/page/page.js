"use strict";
(() => {
  // Everything that comes from outside goes through textContent and setAttribute: it stays text.
  const find = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const STOPS = [[48, 18, 59], [70, 107, 227], [40, 187, 236], [49, 242, 153], [162, 252, 60], [237, 208, 58], [251, 128, 34], [210, 49, 5], [122, 4, 3]];
  let model = null;
  let image = null; // data URL of the chosen image
  let running = null; // AbortController of the request
  let asking = Promise.resolve(); // ends with the request
  let chosen = 0; // number of files that were chosen; the last one counts, whichever is read first

  const colourOf = (value) => {
    const position = (value / 255) * (STOPS.length - 1);
    const low = Math.min(Math.floor(position), STOPS.length - 2);
    return STOPS[low].map((channel, index) => channel + (STOPS[low + 1][index] - channel) * (position - low));
  };
  const COLOURS = Array.from({ length: 256 }, (_, value) => colourOf(value));

  function showError(message) {
    find("error").textContent = message;
    find("error").hidden = !message;
  }

  function makeHeaders() {
    const key = find("key").value;
    return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  async function connect() {
    try {
      const response = await fetch("v1/models", { headers: makeHeaders() });
      if (response.status === 401) {
        find("key-row").hidden = false;
        find("model").textContent = "this server needs an API key";
        return;
      }
      model = (await response.json()).data[0];
      find("model").textContent = model.id;
      updateOptions();
    } catch {
      find("model").textContent = "the server does not answer";
    }
  }

  // A block is forced by a constraint, in a model that has the tokens.
  function updateOptions() {
    find("force").disabled = !find("constraints").checked || (model !== null && !model.perception.depth);
    if (find("force").disabled) find("force").checked = false;
  }

  // The file as it is, or scaled down where the server would refuse it.
  async function readImage(file) {
    const bitmap = await createImageBitmap(file);
    const limits = model ? model.perception : { max_image_pixels: 2e7, max_image_bytes: 8e6 };
    const pixels = bitmap.width * bitmap.height;
    if (pixels <= limits.max_image_pixels && file.size <= limits.max_image_bytes && /^image\/(png|jpeg|webp|gif|bmp)$/.test(file.type)) {
      return new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.onerror = reject;
        reader.readAsDataURL(file);
      });
    }
    const scale = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height), Math.sqrt(limits.max_image_pixels / pixels));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
    canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // as the server does with transparent pixels; JPEG has none
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.92);
  }

  async function choose(file) {
    if (!file) {
      showError("That is not an image file. Links are not fetched: save the image, then choose it.");
      return;
    }
    const number = (chosen += 1);
    const photo = find("photo");
    let content;
    try {
      content = await readImage(file);
      if (number !== chosen) return;
      photo.src = content;
      await photo.decode();
    } catch {
      if (number !== chosen) return;
      showError(`${file.name}: not an image that this browser can read`);
      if (image) photo.src = image;
      return;
    }
    if (number !== chosen) return;
    if (running) {
      running.abort(); // the answer would be about another image
      await asking;
    }
    image = content;
    showError("");
    clearAnswer();
    photo.hidden = false;
    find("photo-stage").querySelector(".empty").hidden = true;
    find("boxes").setAttribute("viewBox", `0 0 ${photo.naturalWidth} ${photo.naturalHeight}`);
    find("drop-text").textContent = `${file.name} (${photo.naturalWidth} × ${photo.naturalHeight})`;
    find("status").textContent = "Ready.";
  }

  function clearAnswer() {
    find("boxes").replaceChildren();
    find("map").hidden = true;
    find("map").dataset.rows = "0";
    find("map").setAttribute("aria-label", "Depth map: no rows yet");
    find("map-stage").querySelector(".empty").hidden = false;
    find("text").replaceChildren();
    find("facts").hidden = find("problems").hidden = find("progress").hidden = true;
    find("problems").querySelector("ul").replaceChildren();
  }

  async function drawMap(depth, rows) {
    const source = new Image();
    source.src = depth.url;
    await source.decode();
    const canvas = find("map");
    canvas.width = depth.width;
    canvas.height = depth.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let index = 0; index < pixels.data.length; index += 4) {
      if (pixels.data[index + 3]) pixels.data.set(COLOURS[pixels.data[index]], index);
    }
    context.putImageData(pixels, 0, 0);
    canvas.hidden = false;
    canvas.dataset.rows = String(rows);
    canvas.setAttribute("aria-label", `Depth map: ${rows} of 10 rows`);
    find("map-stage").querySelector(".empty").hidden = true;
  }

  function makeElement(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function drawBox([x1, y1, x2, y2]) {
    const group = makeElement("g", { class: "box" });
    const [width, height] = [find("photo").naturalWidth, find("photo").naturalHeight];
    // An edge is known to one of 336 parts of the image; a box without area would not be drawn.
    const place = { x: x1, y: y1, width: Math.max(x2 - x1, width / 336), height: Math.max(y2 - y1, height / 336) };
    const size = width / 24;
    group.append(makeElement("rect", { ...place, class: "halo" }), makeElement("rect", place));
    const number = find("boxes").querySelectorAll(".box").length + 1;
    group.append(makeElement("text", { x: x1 + size / 4, y: y1 + size, "font-size": size }, String(number)));
    find("boxes").append(group);
  }

  function drawPoint({ letter, x, y }) {
    const size = find("photo").naturalWidth / 24;
    const group = makeElement("g", { class: "point" });
    group.append(makeElement("circle", { cx: x, cy: y, r: size / 3 }), makeElement("text", { x: x + size / 2, y, "font-size": size }, letter));
    find("boxes").append(group);
  }

  function describeTokens(part, number) {
    const codes = [...part.matchAll(/_(\d+)>/g)].map((match) => Number(match[1]));
    if (part.startsWith("<DEPTH_START>")) {
      return codes.length === 100 && part.endsWith("<DEPTH_END>") ? "depth map" : "broken depth map";
    }
    return codes.length === 4 && codes[0] <= codes[2] && codes[1] <= codes[3] ? `box ${number}` : "broken box";
  }

  // The text with a chip in the place of each block and box; boxes have the numbers that are drawn.
  function showText(text) {
    const parts = text.split(/(<DEPTH_START>(?:<DEPTH_\d+>)*(?:<DEPTH_END>)?|\(?(?:<PIXEL_\d+>,?){1,4}\)?)/);
    let boxes = 0;
    find("text").replaceChildren(
      ...parts.filter(Boolean).map((part) => {
        if (!part.startsWith("<DEPTH_START>") && !part.includes("<PIXEL_")) return document.createTextNode(part);
        const chip = document.createElement("span");
        chip.textContent = describeTokens(part, boxes + 1);
        boxes += chip.textContent.startsWith("box");
        chip.className = chip.textContent.startsWith("broken") ? "chip broken" : "chip";
        return chip;
      }),
    );
  }

  function addProblem(message) {
    const list = find("problems").querySelector("ul");
    if ([...list.children].some((item) => item.textContent === message)) return;
    const item = document.createElement("li");
    item.textContent = message;
    list.append(item);
    find("problems").hidden = false;
  }

  function showFacts(evidence) {
    const facts = [
      ["evidence", evidence.valid ? "valid" : "not valid"],
      ...(evidence.answer === null ? [] : [["answer", evidence.answer]]),
      ["tokens", String(evidence.tokens)],
      ["boxes", String(evidence.boxes.length)],
    ];
    find("facts").replaceChildren(
      ...facts.flatMap(([name, value]) => {
        const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = name;
        definition.textContent = value;
        if (name === "evidence") definition.className = evidence.valid ? "valid" : "invalid";
        return [term, definition];
      }),
    );
    find("facts").hidden = false;
  }

  async function handleEvent(event) {
    if (event.event === "row") {
      find("progress").hidden = false;
      find("progress").value = event.row + 1;
      find("status").textContent = `Depth map: row ${event.row + 1} of 10`;
      if (event.depth) await drawMap(event.depth, event.row + 1);
    } else if (event.event === "depth") {
      find("status").textContent = "Depth map complete; the answer follows.";
    } else if (event.event === "box") {
      drawBox(event.box);
    } else if (event.event === "problem") {
      addProblem(event.message);
    } else if (event.event === "answer") {
      if (event.depth) await drawMap(event.depth, 10);
      find("boxes").replaceChildren();
      event.boxes.forEach(drawBox);
      [...event.markers, ...event.points].forEach(drawPoint);
      find("problems").querySelector("ul").replaceChildren();
      event.problems.forEach(addProblem);
      showFacts(event);
    }
  }

  async function* readEvents(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      const lines = buffer.split("\n");
      buffer = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }

  async function ask() {
    if (!image) {
      showError("Choose an image first.");
      find("file").focus();
      return;
    }
    if (!model) await connect();
    if (!model) return;
    clearAnswer();
    showError("");
    const controller = new AbortController();
    running = controller;
    find("ask").disabled = true;
    find("stop").disabled = false;
    find("status").textContent = "Waiting for the first token…";
    const constraints = find("constraints").checked;
    const options = { constraints, row_maps: true, ...(find("force").checked ? { force_block: "first" } : {}) };
    const content = [{ type: "image_url", image_url: { url: image } }, { type: "text", text: find("question").value }];
    let text = "";
    let state = "The connection ended before the answer was complete.";
    try {
      const body = JSON.stringify({ model: model.id, stream: true, messages: [{ role: "user", content }], perception: options });
      const response = await fetch("v1/chat/completions", { method: "POST", headers: makeHeaders(), body, signal: controller.signal });
      if (!response.ok) throw new Error((await response.json()).error.message);
      for await (const chunk of readEvents(response.body)) {
        if (chunk.error) throw new Error(chunk.error.message);
        if (controller.signal.aborted) break;
        const choice = chunk.choices[0];
        if (choice.delta.content) showText((text += choice.delta.content));
        if (choice.perception) await handleEvent(choice.perception);
        if (choice.finish_reason) state = choice.finish_reason === "stop" ? "Complete." : "Cut off at the maximum number of tokens.";
      }
    } catch (error) {
      state = "Failed.";
      if (!controller.signal.aborted) showError(error instanceof TypeError ? "The server does not answer." : error.message);
    }
    if (controller.signal.aborted) state = "Stopped.";
    find("status").textContent = state;
    find("progress").hidden = true;
    find("ask").disabled = false;
    find("stop").disabled = true;
    running = null;
  }

  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) asking = ask();
  });
  find("stop").addEventListener("click", () => running && running.abort());
  find("file").addEventListener("change", () => find("file").files.length && choose(find("file").files[0]));
  find("constraints").addEventListener("change", updateOptions);
  find("key").addEventListener("change", connect);
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((candidate) => candidate.type.startsWith("image/"));
    if (file) choose(file);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) asking = ask();
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      find("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") choose(event.dataTransfer.files[0]);
    });
  }
  connect();
})();
