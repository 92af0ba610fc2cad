//! The agent's stderr as it is printed: byte for byte where that is safe.
//!
//! Two things are not passed on as they are. On a terminal no control character is, because it could move the
//! cursor, change the title or hide text. And no line is that looks like one of this command: it could
//! forge the summary or the report.

use std::fmt::Write;

use memchr::memmem;

/// Begins every line of this command.
pub(super) const OURS: &str = "agentpipe: ";
/// Begins a line of the agent that could be taken for one of this command.
const THEIRS: &[u8] = b"agent: ";
/// A line with this anywhere in it could be taken for one of this command: a reader may split lines at
/// other characters than `\n`, or skip white space.
const MARK: &[u8] = b"agentpipe:";
/// The same for the report.
const REPORT_MARK: &[u8] = b"{";

/// Prints the agent's lines, which may come in pieces.
#[derive(Debug, Default)]
pub(super) struct AgentLines {
    /// Control characters are escaped.
    pub(super) escapes: bool,
    /// The report is printed among the lines.
    pub(super) with_report: bool,
    /// Records are printed among the lines, so no line may stay unfinished.
    pub(super) with_records: bool,
    /// The last bytes of the unfinished line; empty at the beginning of a line.
    pub(super) open: Vec<u8>,
}

impl AgentLines {
    /// Appends a line or a piece of one to `out`.
    pub(super) fn print(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let imitates = self.imitates(piece);
        if imitates {
            self.end_line(out);
            out.extend_from_slice(THEIRS);
        }
        if imitates || self.escapes {
            escape(piece, out);
        } else {
            out.extend_from_slice(piece);
        }
        if piece.ends_with(b"\n") {
            self.open.clear();
            return;
        }
        self.open.extend_from_slice(piece);
        // A mark may continue in the next piece.
        let kept = self.open.len().min(MARK.len());
        self.open.drain(..self.open.len() - kept);
        if self.with_records {
            self.end_line(out);
        }
    }

    /// Ends the unfinished line, if there is one, so that another line can follow.
    pub(super) fn end_line(&mut self, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            self.open.clear();
            out.push(b'\n');
        }
    }

    /// Forgets the unfinished line: it was dropped.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    fn imitates(&self, piece: &[u8]) -> bool {
        let marked = |text: &[u8], mark| memmem::find(text, mark).is_some();
        if marked(piece, MARK) || (self.with_report && marked(piece, REPORT_MARK)) {
            return true;
        }
        let seam = || [&self.open, &piece[..piece.len().min(MARK.len())]].concat();
        !self.open.is_empty() && marked(&seam(), MARK)
    }
}

/// Appends text in which all control characters but tabs and the line end are visible, also those that
/// change the direction of text or separate lines.
fn escape(line: &[u8], out: &mut Vec<u8>) {
    let end = match line {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    let (text, end) = line.split_at(line.len() - end);
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            if is_harmful(char) {
                shown.extend(char.escape_debug());
            } else {
                shown.push(char);
            }
        }
        for byte in chunk.invalid() {
            // A write to a `String` does not fail.
            let _to_memory = write!(shown, "\\x{byte:02x}");
        }
    }
    out.extend_from_slice(shown.as_bytes());
    out.extend_from_slice(end);
}

fn is_harmful(char: char) -> bool {
    let is_control = char.is_control() && char != '\t';
    is_control || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: &mut AgentLines, pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| lines.print(piece, &mut out));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let mut lines = AgentLines { escapes: true, ..AgentLines::default() };
        let all: String = ('\0'..='\u{ff}').filter(|char| *char != '\n').collect();
        let shown = printed(&mut lines, &[format!("{all}\r\n").as_bytes()]);
        let line = shown.strip_suffix("\r\n").expect("its line end");
        assert_eq!(line.matches(char::is_control).collect::<String>(), "\t");
        assert!(line.contains("\\u{1b}") && line.contains("\\u{9b}") && line.contains("\u{ff}"));
        assert!(line.contains("\\r") && line.contains("!\"#") && line.contains("[\\]"));
        // 8-bit controls that are not UTF-8, and text that is turned around.
        let shown = printed(&mut lines, &[b"a\x9b2J\xff\n", "\u{202e}x\u{2069}\n".as_bytes()]);
        assert_eq!(shown, "a\\x9b2J\\xff\n\\u{202e}x\\u{2069}\n");
    }

    #[test]
    fn elsewhere_bytes_stay() {
        let mut lines = AgentLines::default();
        let mut out = Vec::new();
        let said: [&[u8]; 3] =
            [b"\x1b[31mred\xff\r\n", b"{\"schema\":1}\n", b"agentpipe 0.1, agentpip\n"];
        said.iter().for_each(|line| lines.print(line, &mut out));
        assert_eq!(out, said.concat());
    }

    #[test]
    fn no_line_passes_for_one_of_ours() {
        for cut in 0.."\ragentpipe: pid 1 closed".len() {
            let forged = b"\ragentpipe: pid 1 closed\n";
            let (first, second) = forged.split_at(cut);
            let pieces: Vec<&[u8]> =
                [b"x".as_slice(), first, second].into_iter().filter(|p| !p.is_empty()).collect();
            let shown = printed(&mut AgentLines::default(), &pieces);
            assert!(shown.contains("agent: "), "{shown:?}");
            let lines = shown.split(['\n', '\r']);
            assert!(
                { lines }.all(|line| !line.trim_start().starts_with("agentpipe:")),
                "{shown:?}"
            );
        }
        let forged: [&[u8]; 2] = [b"  agentpipe: pid 1 closed\n", b"\x1b[0magentpipe: x\n"];
        let shown = printed(&mut AgentLines::default(), &forged);
        assert_eq!(shown, "agent:   agentpipe: pid 1 closed\nagent: \\u{1b}[0magentpipe: x\n");
    }

    #[test]
    fn no_line_passes_for_the_report() {
        let forged: [&[u8]; 3] = [b"{\"schema\":1}\n", b"x\x0b", b"{ \"sch\\u0065ma\": 1 }\n"];
        let mut lines = AgentLines { with_report: true, ..AgentLines::default() };
        let shown = printed(&mut lines, &forged);
        assert_eq!(shown, "agent: {\"schema\":1}\nx\x0b\nagent: { \"sch\\u0065ma\": 1 }\n");
    }

    #[test]
    fn line_among_records_does_not_stay_open() {
        let mut lines = AgentLines { with_records: true, ..AgentLines::default() };
        assert_eq!(printed(&mut lines, &[b"Proceed? ", b"yes\n"]), "Proceed? \nyes\n");
        let mut out = Vec::new();
        let mut lines = AgentLines::default();
        lines.print(b"Proceed? ", &mut out);
        lines.end_line(&mut out);
        lines.end_line(&mut out);
        assert_eq!(out, b"Proceed? \n");
    }
}
