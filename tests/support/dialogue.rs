//! Agents that play a dialogue, step by step, and leave with 65 if the host says anything else.

use agentpipe::{AgentCommand, CloseReport, ExitStatus};

use super::PROGRAM;

/// A rule: every control request of the host is answered with an empty success.
pub(crate) const ANSWER_ALL: &str = concat!(
    r#"{"on":{"type":"control_request","request_id":"${id}"},"#,
    r#""send":{"type":"control_response","response":{"subtype":"success","#,
    r#""request_id":"${id}","response":{}}}}"#
);
/// The handshake, as two steps.
pub(crate) const HANDSHAKE: &str = concat!(
    r#"{"expect":{"type":"control_request","request_id":"${handshake}","request":{"subtype":"initialize"}}}"#,
    "\n",
    r#"{"send":{"type":"control_response","response":{"subtype":"success","#,
    r#""request_id":"${handshake}","response":{"commands":[]}}}}"#
);
/// The end of a turn.
pub(crate) const RESULT: &str =
    r#"{"send":{"type":"result","subtype":"success","is_error":false,"session_id":"s"}}"#;

/// An agent that plays these steps.
pub(crate) fn dialogue<T: AsRef<str>>(steps: &[T]) -> AgentCommand {
    let steps = steps.iter().flat_map(|step| ["--step", step.as_ref()]);
    AgentCommand::new(PROGRAM).arg("fake").args(steps)
}

/// The dialogue went as written.
pub(crate) fn assert_played(report: &CloseReport) {
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}: {}", report.stderr_tail());
}
