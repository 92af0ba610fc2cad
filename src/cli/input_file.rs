//! Reads a file that a user or a CI job names. The size is bounded and every error is one line.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest file that is read. A bench report has about 20 KiB.
const SIZE_MAX: u64 = 4 << 20;

/// The longest error, in characters: a parser may quote its input.
const ERROR_MAX: usize = 300;

/// Returns the text of a regular file. A pipe or a device is refused, because it may never end.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| blame(path, &error.to_string());
    // Opening a FIFO without a writer would block.
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
        return Err(too_large(path, SIZE_MAX));
    }
    text(file, path, SIZE_MAX)
}

/// Returns the text on stdin.
pub(super) fn read_stdin() -> Result<String, String> {
    text(std::io::stdin().lock(), stdin(), SIZE_MAX)
}

/// Returns the name of stdin in errors.
pub(super) fn stdin() -> &'static Path {
    Path::new("stdin")
}

/// Reads a text of at most `max` bytes from a file, a pipe or a device.
pub(super) fn text(from: impl Read, path: &Path, max: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| blame(path, &error.to_string()))?;
    if bytes.len() as u64 > max {
        return Err(too_large(path, max));
    }
    String::from_utf8(bytes).map_err(|_| blame(path, "not UTF-8 text"))
}

fn too_large(path: &Path, max: u64) -> String {
    blame(path, &format!("larger than the {} MiB allowed", max >> 20))
}

/// Returns one line that names the file and the error.
pub(super) fn blame(path: &Path, why: &str) -> String {
    one_line(&format!("{}: {why}", path.display()))
}

/// Replaces line breaks and control characters by spaces, and cuts the text to a bounded length.
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
