//! F5: the units of the command line, sizes (`64k`, `13m`) and durations (`250ms`, `2s`).

use std::time::Duration;

/// Parses a size in bytes; `k`, `m` and `g` are powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split(text);
    let number = number(digits)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("unknown size unit `{unit}`, use k, m or g")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Parses a duration; the unit is one of `us`, `ms`, `s` and `m`, and must be given.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split(text);
    let number = number(digits)?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        "" if number == 0 => Ok(Duration::ZERO),
        "" => Err("a duration needs a unit: us, ms, s or m".to_owned()),
        _ => Err(format!("unknown duration unit `{unit}`, use us, ms, s or m")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn number(digits: &str) -> Result<u64, String> {
    digits.parse().map_err(|_| "expected a whole number first, as in `64k` or `250ms`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_without_a_number_or_with_a_strange_unit_is_refused() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64k"), Ok(65_536));
        assert_eq!(parse_size("13M"), Ok(13 * 1024 * 1024));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for bad in ["", "k", "1x", "-1", "1.5k", "99999999999g"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("3us"), Ok(Duration::from_micros(3)));
        assert_eq!(parse_duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "ms", "1h", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
