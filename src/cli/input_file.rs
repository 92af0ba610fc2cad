//! F5. Reading a file that a user or a CI job hands over: bounded, and a failure is one line.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest file that is read. A bench report has some 20 KiB.
const SIZE_MAX: u64 = 4 << 20;

/// The longest error; a parser may quote what it read.
const ERROR_MAX: usize = 300;

/// The file's text. A pipe or a device is refused: it may never answer, or never end.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| blame(path, &error.to_string());
    // Opening a FIFO that nobody writes to would wait for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file =
        OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(blame(path, "a directory, not a file"));
    }
    if !metadata.is_file() {
        return Err(blame(path, "not a regular file; a pipe is read from stdin only"));
    }
    if metadata.len() > SIZE_MAX {
        return Err(too_large(path));
    }
    text(file, path)
}

/// The text on stdin, up to its end.
pub(super) fn read_stdin() -> Result<String, String> {
    text(std::io::stdin().lock(), stdin())
}

/// How errors call it.
pub(super) fn stdin() -> &'static Path {
    Path::new("stdin")
}

fn text(from: impl Read, path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(SIZE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| blame(path, &error.to_string()))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(too_large(path));
    }
    String::from_utf8(bytes).map_err(|_| blame(path, "not UTF-8 text"))
}

fn too_large(path: &Path) -> String {
    blame(path, &format!("larger than the {} MiB allowed", SIZE_MAX >> 20))
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
