//! What came instead of a response: the words for a request that reaches its timeout.

/// A kind of output that may explain a missing response. The last one of each kind is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemarkKind {
    /// A record was dropped that may have been the response.
    Dropped,
    /// The agent said that it could not read a record, answered another request, or sent a record that
    /// was refused.
    Complaint,
    /// A line was not a record.
    Noise,
}

#[derive(Debug)]
struct Remark {
    what: String,
    remedy: Option<&'static str>,
    /// Requests with an id below this were open, or had been.
    below: u64,
}

/// The remarks of one session.
#[derive(Debug, Default)]
pub(super) struct Remarks([Option<Remark>; 3]);

impl Remarks {
    /// Keeps a remark about all requests whose id is below `below`. `what` follows "meanwhile".
    pub(super) fn note(
        &mut self,
        kind: RemarkKind,
        what: String,
        remedy: Option<&'static str>,
        below: u64,
    ) {
        self.0[kind as usize] = Some(Remark { what, remedy, below });
    }

    /// Returns what came while this request was open, as the end of a sentence, and the first remedy.
    pub(super) fn about(&self, id: u64) -> (String, Option<&'static str>) {
        let mut said = String::new();
        let mut remedy = None;
        for remark in self.0.iter().flatten().filter(|remark| id < remark.below) {
            said += if said.is_empty() { "; meanwhile " } else { ", and " };
            said += &remark.what;
            remedy = remedy.or(remark.remedy);
        }
        (said, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::{RemarkKind, Remarks};

    #[test]
    fn later_request_is_not_explained() {
        // What came before a request was sent says nothing about its response.
        let mut remarks = Remarks::default();
        assert_eq!(remarks.about(1), (String::new(), None));
        remarks.note(RemarkKind::Complaint, "the agent said: no".into(), None, 3);
        remarks.note(RemarkKind::Dropped, "a record was dropped".into(), Some("read"), 2);
        let both = "; meanwhile a record was dropped, and the agent said: no";
        assert_eq!(remarks.about(1), (both.into(), Some("read")));
        assert_eq!(remarks.about(2), ("; meanwhile the agent said: no".into(), None));
        assert_eq!(remarks.about(3).0, "");
    }
}
