//! The units of the command line: sizes (`64k`, `1.5MiB`) and times (`250ms`, `1.5s`, `1h30m`).
//!
//! Both have one grammar: a number, which may have a fraction, and a unit. In every size of this command
//! `k` and `m` are powers of 1024. Integer arithmetic, so that nothing is rounded up and every overflow is
//! an error.

use std::time::Duration;

/// Units of size, in bytes.
const SIZES: &[(&[&str], u128)] = &[
    (&["", "b", "byte", "bytes"], 1),
    (&["k", "kb", "kib"], 1 << 10),
    (&["m", "mb", "mib"], 1 << 20),
    (&["g", "gb", "gib"], 1 << 30),
    (&["t", "tb", "tib"], 1 << 40),
];

/// Units of time, in nanoseconds.
const TIMES: &[(&[&str], u128)] = &[
    (&["ns"], 1),
    (&["us"], 1_000),
    (&["ms", "msec", "msecs"], 1_000_000),
    (&["s", "sec", "secs", "second", "seconds"], SECOND),
    (&["m", "min", "mins", "minute", "minutes"], 60 * SECOND),
    (&["h", "hr", "hrs", "hour", "hours"], 3600 * SECOND),
    (&["d", "day", "days"], 24 * 3600 * SECOND),
];

const SECOND: u128 = 1_000_000_000;

/// The most digits after the point, more than any unit needs.
const FRACTION_MAX: usize = 12;

/// Parses a size in bytes, such as `4096`, `64k`, `1.5 MiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (bytes, rest) =
        quantity(text.trim(), SIZES, "expected a size such as 4096, 64k or 1.5MiB")?;
    if !rest.is_empty() {
        return Err(format!("`{rest}` is left over after the size"));
    }
    u64::try_from(bytes).map_err(|_| "too large".to_owned())
}

/// Parses a time, such as `250ms`, `1.5s`, `1h30m`. The unit must be given, except for `0`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: u128 = 0;
    loop {
        let expected = "expected a time such as 250ms, 1.5s or 1h30m";
        let (nanoseconds, left) = quantity(rest, TIMES, expected)?;
        total = total.checked_add(nanoseconds).ok_or("too long")?;
        if left.is_empty() {
            break;
        }
        rest = left;
    }
    let seconds = u64::try_from(total / SECOND).map_err(|_| "too long".to_owned())?;
    Ok(Duration::new(seconds, u32::try_from(total % SECOND).unwrap_or(0)))
}

/// Parses the first number and its unit. Returns a count of the smallest unit, and the text after it.
fn quantity<'a>(
    text: &'a str,
    units: &[(&[&str], u128)],
    expected: &str,
) -> Result<(u128, &'a str), String> {
    let (whole, rest) = digits(text);
    if whole.is_empty() {
        return Err(expected.to_owned());
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("0", rest),
    };
    if fraction.is_empty() || fraction.len() > FRACTION_MAX {
        return Err(format!("{expected}: a point is followed by 1 to {FRACTION_MAX} digits"));
    }
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let lower = unit.to_ascii_lowercase();
    let factor = units.iter().find(|(names, _)| names.contains(&lower.as_str()));
    let Some((_, factor)) = factor else {
        let known: Vec<&str> = units.iter().flat_map(|(names, _)| names.first().copied()).collect();
        let known = known.join(" ");
        return Err(match unit {
            "" => format!("the unit is missing, one of {}", known.trim()),
            _ => format!("unknown unit `{unit}`, use one of {}", known.trim()),
        });
    };
    let whole: u128 = whole.parse().map_err(|_| "too large".to_owned())?;
    let parts: u128 = fraction.parse().unwrap_or(0);
    if *factor == 1 && parts > 0 {
        return Err("the smallest unit has no fraction".to_owned());
    }
    let part = parts * factor / 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let count = whole.checked_mul(*factor).and_then(|count| count.checked_add(part));
    Ok((count.ok_or_else(|| "too large".to_owned())?, rest.trim_start()))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65_536),
            ("13M", 13 << 20),
            ("16MiB", 16 << 20),
            ("16 mb", 16 << 20),
            ("2 GiB", 2 << 30),
            ("1.5k", 1536),
            (" 0.5m ", 1 << 19),
            ("1T", 1 << 40),
            ("12 bytes", 12),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn bad_size_is_refused() {
        let bad = [
            "",
            "k",
            "1x",
            "-1",
            "+1",
            "1.k",
            ".5k",
            "1e3",
            "1k2k",
            "1,5k",
            "0x10",
            "16777216t",
            "99999999999g",
            "18446744073709551616",
            "17179869184g",
            "340282366920938463463374607431768211456",
            "1.0000000000001k",
            "1.5",
            "2.5b",
        ];
        for bad in bad {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_parse() {
        let good = [
            ("0", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("1.5s", Duration::from_millis(1500)),
            ("0.25 s", Duration::from_millis(250)),
            ("3us", Duration::from_micros(3)),
            ("7ns", Duration::from_nanos(7)),
            ("1m", Duration::from_secs(60)),
            ("1h", Duration::from_secs(3600)),
            ("1h30m", Duration::from_secs(5400)),
            ("1m 30.5s", Duration::from_millis(90_500)),
            ("2 Minutes", Duration::from_secs(120)),
            ("1d", Duration::from_secs(86_400)),
        ];
        for (text, time) in good {
            assert_eq!(parse_duration(text), Ok(time), "{text}");
        }
    }

    #[test]
    fn bad_time_is_refused() {
        let bad = [
            "",
            "5",
            "1.5",
            "ms",
            "1x",
            "-1s",
            "+1s",
            "1.s",
            ".5s",
            "1h30",
            "1,5s",
            "inf",
            "99999999999999999999d",
            "340282366920938463463374607431768211455s",
            "1.0000000000001s",
        ];
        for bad in bad {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
