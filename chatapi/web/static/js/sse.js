// Server-sent events, read as the HTML standard (9.2.6) has it: lines end with CR, LF or both, wherever a network
// packet cuts them; what begins with a colon is a comment; an event ends at an empty line.

/** The events of a response's body, each {event, data}, as they come. Its reader is let go in any case. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let event = "message";
  let data = [];
  try {
    for await (const line of lines(reader)) {
      if (line === "") {
        if (data.length) yield { event, data: data.join("\n") };
        event = "message";
        data = [];
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") data.push(value);
      if (field === "event") event = value;
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, and has said so
  }
}

async function* lines(reader) {
  let rest = "";
  let afterCR = false; // the packet before ended with CR: an LF that begins the next one belongs to it
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return; // half a line, or half an event, at the end is none
    const text = afterCR && value.startsWith("\n") ? value.slice(1) : value;
    afterCR = text === "" ? false : text.endsWith("\r");
    const found = (rest + text).split(/\r\n|\r|\n/);
    rest = found.pop();
    yield* found;
  }
}
