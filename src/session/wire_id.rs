//! Ids on the wire: the JSON text of an id, and the comparison of ids by their value.

/// The id of a request of the agent, as the JSON text that it came as: `"req-7"` with its quotes,
/// or `7`.
///
/// The text is kept so that the response carries the id back byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WireId(pub(crate) Box<str>);

impl WireId {
    /// Returns whether both ids have the same value, as [`number`] reads it or as a text.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (number(&self.0), number(&other.0)) {
            (None, None) => text(&self.0) == text(&other.0),
            (mine, others) => mine == others,
        }
    }
}

/// Returns the number that an id stands for: `7`, `7.0`, `7e0` and `"7"` are all 7.
///
/// Agents that keep ids as texts or as floats answer request 7 with one of these forms.
pub(crate) fn number(id: &str) -> Option<u64> {
    let text = text(id)?;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    // From here on, a float does not hold every whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    // `f64::from_str` also reads words such as `inf`.
    let float = text.parse::<f64>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    float.filter(|float| float.fract() == 0.0 && *float < EXACT_MAX).map(|float| float as u64)
}

/// Returns the text of an id without its quotes and escapes.
fn text(id: &str) -> Option<String> {
    if id.starts_with('"') { serde_json::from_str(id).ok() } else { Some(id.into()) }
}

#[cfg(test)]
mod tests {
    use super::{WireId, number};

    #[test]
    fn forms_of_one_number_are_one_id() {
        // Serializers that keep ids as texts or floats: each answer was dropped, and its request
        // timed out.
        for id in ["1", "\"1\"", "1.0", "1e0", "\"1.0\"", "\"\\u0031\"", "10E-1"] {
            assert_eq!(number(id), Some(1), "{id}");
        }
        assert_eq!(number("18446744073709551615"), Some(u64::MAX), "no digit is lost");
        assert_eq!(number("9007199254740993.0"), None, "a float cannot tell it from its neighbour");
        for odd in ["1.5", "-1", "\"req_1\"", "\"\"", "null", "\"inf\"", "NaN", "\"1", "1e400", ""]
        {
            assert_eq!(number(odd), None, "{odd}");
        }
    }

    #[test]
    fn texts_are_compared_without_escapes() {
        let id = |text: &str| WireId(text.into());
        assert!(id("\"a\"").is_like(&id("\"\\u0061\"")) && id("2").is_like(&id("\"2\"")));
        assert!(!id("\"a\"").is_like(&id("\"b\"")) && !id("\"a\"").is_like(&id("1")));
    }
}
