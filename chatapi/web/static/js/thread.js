// The conversation as it is shown: what was said, and under it an answer from each model asked.

import { otherChoices, probabilities } from "./choices.js";
import { button, element } from "./dom.js";
import { answerFacts } from "./facts.js";
import { Prose, copyText } from "./markdown.js";
import { rowOf } from "./models.js";
import { problem } from "./problem.js";
import { _, duration, number } from "./texts.js";

/** Draws turns into `home`. `actions` are edit(turn), remove(turn), retry(turn, column) and removeAnswer(turn, column). */
export class Thread {
  constructor(home, actions, rows) {
    this.home = home;
    this.actions = actions;
    this.rows = rows;
    this.views = new Map(); // answer → AnswerView
  }

  draw({ turns }) {
    const before = this.views;
    this.views = new Map();
    this.home.replaceChildren(...turns.map((turn, at) => this.turn(turn, at, at === turns.length - 1, before)));
    this.toEnd();
  }

  turn(turn, at, last, before) {
    const answers = [...turn.answers.entries()].filter(([, answer]) => answer);
    const views = answers.map(([column, answer]) => before.get(answer) ?? this.view(turn, column, answer));
    for (const view of views) {
      this.views.set(view.answer, view);
      view.more.open = last;
    }
    return element(
      "article",
      { class: "turn" },
      element("h2", { class: "unseen" }, _("Turn {number}", { number: at + 1 })),
      this.said(turn),
      element("div", { class: `answers of-${views.length}` }, ...views.map(({ root }) => root)),
    );
  }

  said(turn) {
    return element(
      "div",
      { class: "said" },
      turn.images.length ? element("div", { class: "pictures" }, ...turn.images.map(picture)) : null,
      turn.text ? element("p", { class: "plain", dir: "auto" }, turn.text) : null,
      element(
        "div",
        { class: "tools" },
        button(_("Edit"), () => this.actions.edit(turn)),
        button(_("Delete"), () => this.actions.remove(turn)),
        turn.answers.some(Boolean) ? null : button(_("Retry"), () => this.actions.retry(turn, 0)),
      ),
    );
  }

  view(turn, column, answer) {
    const tools = [
      button(_("Retry"), () => this.actions.retry(turn, column)),
      button(_("Delete"), () => this.actions.removeAnswer(turn, column)),
    ];
    return new AnswerView(answer, tools, this.rows, (change) => this.keepEnd(change));
  }

  /** Show what has come of `answer` since. */
  update(answer) {
    this.views.get(answer)?.update();
  }

  /** Do `change`; whoever was reading at the end still does. */
  keepEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.home;
    const wasAtEnd = scrollHeight - scrollTop - clientHeight < 60;
    change();
    if (wasAtEnd) this.toEnd();
  }

  toEnd() {
    this.home.scrollTop = this.home.scrollHeight;
  }
}

function picture(url, at) {
  return element("img", { src: url, alt: _("Picture {number}", { number: at + 1 }) });
}

const BETWEEN_DRAWINGS = 4; // times as long as a drawing took, so that a very long answer leaves time for all else

class AnswerView {
  constructor(answer, tools, rows, keepEnd) {
    this.answer = answer;
    this.rows = rows;
    this.keepEnd = keepEnd;
    this.prose = element("div", { class: "prose" });
    this.writer = new Prose(this.prose);
    this.name = element("h3", { class: "answered-by", dir: "ltr" });
    this.waiting = element("p", { class: "waiting", "aria-hidden": "true" });
    this.thought = element("p", { class: "plain", dir: "auto" });
    this.thinking = element("details", { class: "thinking", hidden: true }, element("summary", {}, _("Reasoning")), this.thought);
    this.calls = element("div", { class: "calls" });
    this.choices = element("div", { class: "choices" });
    this.probabilities = element("div", {});
    this.note = element("p", { class: "note" });
    this.problem = element("div", {});
    this.facts = element("p", { class: "facts" });
    this.details = element("dl", { class: "details" });
    this.more = element("details", { class: "more" }, element("summary", {}, _("Details")), this.details);
    this.copy = button(_("Copy"), () => copyText(answer.text, this.copy));
    this.tools = element("div", { class: "tools" }, ...tools, this.copy);
    this.root = element(
      "section",
      { class: "answer" },
      ...[this.name, this.thinking, this.prose, this.calls, this.choices, this.waiting, this.note, this.problem],
      ...[this.facts, this.probabilities, this.more, this.tools],
    );
    this.began = performance.now();
    this.drawnAt = 0;
    this.tookMs = 0;
    this.update();
  }

  get isOver() {
    return !["waiting", "streaming"].includes(this.answer.status);
  }

  update() {
    if (this.isOver) this.keepEnd(() => this.finish());
    else if (!this.pending) this.pending = setTimeout(() => this.draw(), this.pauseMs());
  }

  pauseMs() {
    return Math.max(0, this.drawnAt + Math.max(16, BETWEEN_DRAWINGS * this.tookMs) - performance.now());
  }

  draw() {
    this.pending = null;
    if (this.isOver) return;
    const began = performance.now();
    this.keepEnd(() => {
      this.root.setAttribute("aria-busy", "true");
      this.name.textContent = this.answer.model || this.answer.asked;
      this.writer.grow(this.answer.text);
      this.showReasoning();
      this.showWaiting();
      this.tools.hidden = true;
      this.more.hidden = true;
    });
    this.drawnAt = performance.now();
    this.tookMs = this.drawnAt - began;
  }

  showWaiting() {
    const words = Boolean(this.answer.text);
    this.waiting.hidden = words;
    if (words) return;
    const seconds = Math.floor((performance.now() - this.began) / 1000);
    this.waiting.textContent = seconds ? _("Waiting for the first token, {seconds} s", { seconds: number(seconds) }) : _("Waiting for the first token");
    clearTimeout(this.clock);
    this.clock = setTimeout(() => this.update(), 1000);
  }

  finish() {
    clearTimeout(this.pending);
    clearTimeout(this.clock);
    this.pending = null;
    const { answer } = this;
    this.root.removeAttribute("aria-busy");
    this.tools.hidden = false;
    this.copy.hidden = !answer.text;
    this.waiting.hidden = true;
    this.showName();
    this.writer.finish(answer.text);
    this.showReasoning();
    this.showCalls();
    this.choices.replaceChildren(...otherChoices(answer));
    this.probabilities.replaceChildren(probabilities(answer) ?? "");
    this.showNote();
    this.showProblem();
    const row = rowOf(this.rows(), answer.model || answer.asked);
    this.facts.replaceChildren(...answerFacts(answer, row).map((fact) => element("span", {}, fact)));
    this.showDetails();
  }

  showName() {
    const { asked, model } = this.answer;
    this.name.textContent = model || asked;
    if (model && model !== asked) this.name.append(element("small", {}, ` ${_("in place of {model}", { model: asked })}`));
  }

  showReasoning() {
    this.thinking.hidden = !this.answer.reasoning;
    this.thought.textContent = this.answer.reasoning;
  }

  showCalls() {
    const calls = this.answer.tools.filter(Boolean);
    this.calls.replaceChildren(
      ...calls.map(({ name, arguments: given }) => element("pre", { tabindex: 0, dir: "ltr" }, element("code", {}, `${name}(${given})`))),
    );
  }

  showNote() {
    const { status, finish, text, tools } = this.answer;
    const notes = {
      length: _("The answer ended at the token limit: raise max_tokens for more."),
      content_filter: _("A content filter ended the answer."),
    };
    let words = status === "stopped" ? _("Stopped. What had been written is kept.") : "";
    if (status === "done") words = notes[finish] ?? (text || tools.length ? "" : _("The answer is empty."));
    if (status === "cut") words = _("The answer broke off here; its words are kept.");
    this.note.textContent = words;
    this.note.hidden = !words;
  }

  showProblem() {
    const { error } = this.answer;
    this.problem.replaceChildren(error ? problem(error) : "");
  }

  showDetails() {
    const { requestId, timing, finish, ignored, totalMs } = this.answer;
    const rows = [
      [_("Request"), requestId],
      ["Server-Timing", timingWords(timing)],
      [_("Finished"), finish],
      [_("Total"), totalMs === null ? "" : duration(totalMs)],
      [_("Ignored fields"), ignored],
    ].filter(([, value]) => value);
    this.more.hidden = !rows.length;
    this.details.replaceChildren(
      ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", { dir: "ltr" }, value))),
    );
  }
}

/** `auth;dur=0.1, gateway;dur=2.3` as `auth 0.1 ms · gateway 2.3 ms`. */
function timingWords(header) {
  const parts = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return parts.map(([, name, ms]) => `${name} ${number(Number(ms), { maximumFractionDigits: 1 })} ms`).join(" · ");
}
