//! F5. Reading a file that a user or a CI job hands over: bounded, and a failure is one line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest file that is read. A bench report has a few KiB.
const SIZE_MAX: u64 = 4 << 20;

/// The longest error; a parser may quote what it read.
const ERROR_MAX: usize = 300;

/// The file's text.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| blame(path, &error.to_string());
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(blame(path, &format!("larger than the {} MiB allowed", SIZE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| blame(path, "not UTF-8 text"))
}

/// One line that names the file and what is wrong with it.
pub(super) fn blame(path: &Path, why: &str) -> String {
    one_line(&format!("{}: {why}", path.display()))
}

/// The text without line breaks and control characters, cut to a bounded length.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().take(ERROR_MAX + 1));
        if let Some((cut, _)) = line.char_indices().nth(ERROR_MAX) {
            line.truncate(cut);
            line.push_str("...");
            break;
        }
    }
    line
}
