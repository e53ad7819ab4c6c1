
"use strict";
(() => {
  const EVERY = 1000, KEPT = 300, SPARK = 60, GAP = 3.5;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = id => document.getElementById(id);
  const plain = new Intl.NumberFormat("en");
  const rough = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  // What a peer or a log line says goes into text nodes alone, never into markup.
  const make = (tag, name, ...inside) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...inside);
    return node;
  };
  const draw = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    return node;
  };
  const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  const count = n => n < 1e5 ? plain.format(n) : compact(n);
  const compact = n => {
    const power = Math.min(3, Math.floor(Math.log10(n) / 3));
    return (n / 1000 ** power).toFixed(1) + ["", " k", " M", " G"][power];
  };
  const size = n => {
    let power = 0;
    for (; n >= 1000 && power < 5; power++) n /= 1024;
    return (power ? rough.format(n) : String(Math.round(n))) + " " + ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][power];
  };
  const rate = n => (n >= 10 || n === 0 ? plain.format(Math.round(n)) : rough.format(n)) + "/s";
  const sizeRate = n => size(n) + "/s";
  const span = s => {
    const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
    if (d) return `${d} d ${h} h`;
    if (h) return `${h} h ${m} min`;
    if (m && s % 60 < 1) return `${m} min`;
    return m ? `${m} min ${Math.floor(s % 60)} s` : `${Math.floor(s)} s`;
  };
  const clock = (seconds, now) => {
    const then = new Date(seconds * 1000), time = then.toLocaleTimeString("en-GB");
    const today = then.toDateString() === new Date(now * 1000).toDateString();
    return today ? time : then.toLocaleDateString("sv") + " " + time;
  };
  const sum = counts => Object.values(counts).reduce((a, b) => a + b, 0);

  // -- plots

  const niceCount = top => {
    const unit = 10 ** Math.floor(Math.log10(Math.max(top, 1)));
    return Math.max(2, [1, 2, 5, 10].map(f => f * unit).find(n => n >= top));
  };
  const niceSize = top => {
    let n = 64;
    while (n < top) n *= 2;
    return n;
  };

  class Plot {
    constructor(figure, title, nice, form, names) {
      Object.assign(this, { title, nice, form, names, samples: [], at: null });
      this.when = make("small");
      this.legend = make("div", "legend");
      this.values = names.map((name, i) => {
        const value = make("b");
        this.legend.append(make("span", "", make("i", ["one", "two"][i]), value, " " + name));
        return value;
      });
      this.svg = draw("svg", { role: "img" });
      figure.append(make("figcaption", "", title, this.when), this.legend, this.svg);
      this.svg.addEventListener("pointermove", event => { this.at = event.clientX; this.show(); });
      this.svg.addEventListener("pointerleave", () => { this.at = null; this.show(); });
    }

    add(time, values) {
      this.samples.push({ time, values });
      if (this.samples.length > KEPT) this.samples.shift();
      this.show();
    }

    show() {
      const samples = this.samples, last = samples[samples.length - 1];
      if (!last) return;
      const box = this.svg.getBoundingClientRect(), foot = 18, head = 6;
      const width = box.width, height = box.height - foot;
      const age = last.time - samples[0].time, window = Math.min(300, Math.max(60, Math.ceil(age / 60) * 60));
      const top = this.nice(Math.max(...samples.flatMap(s => s.values)));
      const x = time => width - (last.time - time) / window * width;
      const y = value => height - value / top * (height - head);
      const nodes = [];
      for (const part of [0, .5, 1]) {
        const level = y(top * part), line = Math.round(level) + .5;
        nodes.push(draw("line", { class: part ? "grid" : "grid base", x1: 0, x2: width, y1: line, y2: line }));
        if (part) {
          nodes.push(draw("text", { x: 0, y: level + 12 }));
          nodes[nodes.length - 1].textContent = this.form(top * part);
        }
      }
      [[0, "start", span(window) + " ago"], [width, "end", "now"]].forEach(([at, anchor, text]) => {
        nodes.push(draw("text", { x: at, y: height + foot - 3, "text-anchor": anchor }));
        nodes[nodes.length - 1].textContent = text;
      });
      this.names.forEach((_, i) => nodes.push(...curves(samples, i, x, y, height)));
      const shown = this.at === null ? last : nearest(samples, (this.at - box.left) / width * window + last.time - window);
      if (shown !== last) {
        const at = x(shown.time);
        nodes.push(draw("line", { class: "rule", x1: at, x2: at, y1: 0, y2: height }));
      }
      this.svg.replaceChildren(...nodes);
      this.values.forEach((node, i) => write(node, this.form(shown.values[i])));
      write(this.when, shown === last ? "" : span(last.time - shown.time) + " ago");
      this.svg.setAttribute("aria-label", this.title + " over the last " + span(age) + ": " + this.names.map((name, i) =>
        `${name} now ${this.form(last.values[i])}, highest ${this.form(Math.max(...samples.map(s => s.values[i])))}`).join("; "));
    }
  }

  const nearest = (samples, time) => samples.reduce((a, b) => Math.abs(b.time - time) < Math.abs(a.time - time) ? b : a);

  // The line of a series, and the area below it; broken where no figures were had for a while.
  const curves = (samples, i, x, y, floor) => {
    const runs = [[]];
    samples.forEach((s, n) => {
      if (n && s.time - samples[n - 1].time > GAP) runs.push([]);
      runs[runs.length - 1].push([x(s.time).toFixed(1), y(s.values[i]).toFixed(1)]);
    });
    const tone = ["one", "two"][i];
    return runs.flatMap(run => {
      const line = run.map(p => p.join(" ")).join("L"), from = run[0][0], to = run[run.length - 1][0];
      return [
        draw("path", { class: "area " + tone, d: `M${from} ${floor}L${line}L${to} ${floor}Z` }),
        draw("path", { class: "curve " + tone, d: `M${line}${run.length > 1 ? "" : "h.1"}` }),
      ];
    });
  };

  const plots = {
    sessions: new Plot($("plot-sessions"), "Sessions", niceCount, count, ["open"]),
    arrivals: new Plot($("plot-arrivals"), "Arrivals", niceCount, rate, ["accepted", "refused"]),
    traffic: new Plot($("plot-traffic"), "Traffic", niceSize, sizeRate, ["in", "out"]),
  };

  addEventListener("resize", () => Object.values(plots).forEach(plot => plot.show()));

  // -- services

  const rows = new Map();
  const labels = [...document.querySelectorAll("#services thead th")].map(th => th.textContent);

  const newRow = name => {
    const cells = {}, row = make("tr");
    row.setAttribute("role", "row");
    ["name", "places", "open", "accepted", "refused", "in", "out", "datagrams", "errors", "line"].forEach((key, i) => {
      const numeric = i > 1 && key !== "line", cell = cells[key] = make(i ? "td" : "th", numeric ? "number " + key : key);
      cell.setAttribute("role", i ? "cell" : "rowheader");
      if (!i) cell.scope = "row";
      if (numeric) cell.dataset.label = labels[i];
      row.append(cell);
    });
    cells.state = make("span", "state");
    cells.name.append(name, cells.state);
    cells.spark = draw("svg", { "aria-hidden": "true" });
    cells.line.append(cells.spark);
    $("services").tBodies[0].append(row);
    return { row, cells, samples: [] };
  };

  const figure = (cell, text, value, note = "", wrong = false) => {
    const tone = value === 0 ? "zero" : wrong ? "wrong" : "";
    const seen = text + "\n" + note + tone;
    if (cell.dataset.seen === seen) return;
    cell.dataset.seen = seen;
    cell.replaceChildren(make("span", tone, text), ...(note ? [make("small", "", note)] : []));
  };

  const reasons = counts => Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([word, n]) => `${word} ${count(n)}`).join(", ");

  // TCP and UDP mostly listen at the same places: these share a line.
  const places = (cell, listen) => {
    const seen = listen.join(" ");
    if (cell.dataset.seen === seen) return;
    cell.dataset.seen = seen;
    const schemes = new Map(), lines = new Map();
    for (const address of listen) {
      const [, scheme, place] = address.match(/^([a-z-]+):(?:\/\/)?(.*)$/) || [null, address, ""];
      schemes.set(scheme, [...schemes.get(scheme) || [], place]);
    }
    for (const [scheme, list] of schemes) {
      const key = list.join(" ");
      lines.set(key, { words: [...(lines.get(key) || { words: [] }).words, scheme], list });
    }
    cell.replaceChildren(...[...lines.values()].map(({ words, list }) => make("div", "", make("span", "kind", words.join(" ")),
      ...list.map(place => {
        const node = make("span", "", place.startsWith("/") ? place.slice(place.lastIndexOf("/") + 1) : place);
        node.title = place;
        return node;
      }))));
  };

  const spark = (svg, samples) => {
    const now = samples[samples.length - 1].time, top = Math.max(1, ...samples.map(s => s.values[0]));
    svg.setAttribute("viewBox", "0 0 92 22");
    svg.replaceChildren(
      draw("line", { class: "grid", x1: 0, x2: 92, y1: 21.5, y2: 21.5 }),
      ...curves(samples, 0, time => 92 - (now - time) / SPARK * 92, value => 21 - value / top * 19, 21.5));
  };

  const showService = (name, now, before, time, seconds) => {
    if (!rows.has(name)) rows.set(name, newRow(name));
    const { cells, samples } = rows.get(name);
    cells.state.className = "state " + now.state;
    write(cells.state, now.state === "stuck" ? `stuck for ${span(now.silence)}` : now.state);
    if (!("open" in now)) return;
    places(cells.places, now.listen);
    figure(cells.open, count(now.open), now.open);
    cells.open.title = now.max_connections === null ? "no limit" : `of ${plain.format(now.max_connections)}`;
    figure(cells.accepted, count(now.admitted), now.admitted);
    figure(cells.refused, count(sum(now.refused)), sum(now.refused), reasons(now.refused));
    figure(cells.in, size(now.bytes_in), now.bytes_in);
    figure(cells.out, size(now.bytes_out), now.bytes_out);
    cells.in.title = plain.format(now.bytes_in) + " bytes";
    cells.out.title = plain.format(now.bytes_out) + " bytes";
    const dropped = reasons(now.datagrams_dropped);
    figure(cells.datagrams, now.datagrams_in ? `${count(now.datagrams_in)} in, ${count(now.datagrams_out)} out` : "0",
      now.datagrams_in, dropped && "dropped: " + dropped);
    figure(cells.errors, count(now.errors), now.errors, "", true);
    if (before && "open" in before) {
      samples.push({ time, values: [Math.max(0, now.bytes_in - before.bytes_in + now.bytes_out - before.bytes_out) / seconds] });
      while (time - samples[0].time > SPARK) samples.shift();
      spark(cells.spark, samples);
    }
  };

  // -- events and the process

  let told = "";
  const showEvents = (events, now) => {
    const seen = JSON.stringify(events);
    if (seen === told) return;
    told = seen;
    $("quiet").hidden = events.length > 0;
    $("events").hidden = events.length === 0;
    $("events").tBodies[0].replaceChildren(...events.map(event => {
      const what = event.kind === "refused"
        ? ["turned away: " + event.text + " ", make("span", "peer", event.peer)] : [event.text];
      const row = make("tr", "",
        make("td", "when", clock(event.time, now)), make("td", "", make("span", "kind-word " + event.kind, event.kind)),
        make("td", "", event.service), make("td", "what", ...what),
        make("td", "number", event.times > 1 ? "× " + count(event.times) : ""));
      row.setAttribute("role", "row");
      for (const cell of row.cells) cell.setAttribute("role", "cell");
      return row;
    }));
  };

  const showDaemon = (daemon, services) => {
    const stuck = Object.keys(services).filter(name => services[name].state === "stuck");
    write($("version"), daemon.version);
    write($("health"), stuck.length ? "stuck: " + stuck.join(", ") : "serving");
    $("health").className = stuck.length ? "bad" : "good";
    write($("process"), `up ${span(daemon.uptime)}, pid ${daemon.pid}`);
    const of = (n, limit) => limit === null ? count(n) : `${count(n)} of ${count(limit)}`;
    const facts = {
      Sessions: of(daemon.open, daemon.max_connections), Threads: of(daemon.threads, daemon.max_threads),
      Descriptors: of(daemon.descriptors, daemon.max_descriptors), Memory: size(daemon.memory),
      "CPU time": daemon.cpu_seconds < 60 ? daemon.cpu_seconds.toFixed(1) + " s" : span(daemon.cpu_seconds),
      "Log lines": `${count(daemon.log_lines_waiting)} waiting, ${count(daemon.log_lines_dropped)} dropped`,
    };
    $("facts").replaceChildren(...Object.entries(facts).map(([term, text]) => make("div", "", make("dt", "", term), make("dd", "", text))));
    document.title = (stuck.length ? "! " : "") + "netd: " + count(daemon.open) + " open";
  };

  // -- once a second

  let last = null;
  const total = (state, of) => Object.values(state.services).reduce((all, s) => all + ("open" in s ? of(s) : 0), 0);

  const show = state => {
    if (last && state.daemon.started !== last.daemon.started) {
      last = null;  // another netd than a moment ago
      for (const { row } of rows.values()) row.remove();
      rows.clear();
    }
    const seconds = last ? Math.max(.001, state.time - last.time) : 0;
    showDaemon(state.daemon, state.services);
    for (const name in state.services)
      showService(name, state.services[name], last && last.services[name], state.time, seconds);
    showEvents(state.events, state.time);
    const rose = of => Math.max(0, total(state, of) - total(last, of)) / seconds;
    plots.sessions.add(state.time, [total(state, s => s.open)]);
    if (last) {
      plots.arrivals.add(state.time, [rose(s => s.admitted), rose(s => sum(s.refused))]);
      plots.traffic.add(state.time, [rose(s => s.bytes_in), rose(s => s.bytes_out)]);
    }
    last = state;
  };

  const poll = async () => {
    const began = Date.now();
    try {
      const response = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!response.ok) throw new Error(`it answers ${response.status}`);
      show(await response.json());
      document.body.classList.remove("stale");
    } catch (error) {
      write($("health"), last ? "no answer since " + clock(last.time, Date.now() / 1000) : "no answer");
      $("health").className = "bad";
      document.body.classList.add("stale");
      console.warn(error);
    }
    if (!document.hidden) setTimeout(poll, Math.max(100, EVERY - (Date.now() - began)));
    else document.addEventListener("visibilitychange", poll, { once: true });
  };
  poll();
})();
