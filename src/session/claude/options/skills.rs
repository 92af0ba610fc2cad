//! Floor 4. Skills: which rules allow them, and which names can stand in a rule.

use crate::error::Result;

use super::refused;

/// Which skills the main agent sees.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Skills {
    All,
    Named(Vec<String>),
}

/// What has to be in the allowed tools.
pub(super) fn rules(skills: &Skills) -> Vec<String> {
    match skills {
        Skills::All => vec!["Skill".into()],
        Skills::Named(names) => names.iter().map(|name| format!("Skill({name})")).collect(),
    }
}

/// A name stands inside `Skill(...)` in a comma-separated list: it must not end the rule, begin
/// another, or mean more than itself.
pub(super) fn check(skills: &Skills) -> Result<()> {
    for name in skills.names() {
        if let Some(what) = wrong_with(name) {
            let what = format!("the name `{}` {what}", name.escape_debug());
            return Err(refused("skills", what)
                .remedy("name skills as they are listed; all_skills() is for all of them"));
        }
    }
    Ok(())
}

fn wrong_with(name: &str) -> Option<&'static str> {
    const BOM: char = '\u{feff}';
    if name.trim().is_empty() {
        return Some("is blank");
    }
    if name.trim() != name {
        return Some("has blanks around it");
    }
    if name.starts_with('/') {
        return Some("begins with a slash, as a command does");
    }
    name.chars().find_map(|char| match char {
        '(' | ')' | ',' => Some("holds `(`, `)` or `,`, which delimit rules"),
        '*' => Some("holds `*`, which is a wildcard in rules"),
        '\\' => Some("holds a backslash, which escapes in rules"),
        BOM => Some("holds a byte order mark"),
        _ if char.is_control() => Some("holds a control character"),
        _ => None,
    })
}
