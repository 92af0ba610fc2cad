//! `--user`: numbers, or names of `/etc/passwd` and `/etc/group`.

use std::fs;

/// Parses `UID[:GID]`. Without a group it is that of the user in `/etc/passwd`.
pub(super) fn parse(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    look_up(user, group, &passwd, &groups)
}

fn look_up(
    user: &str,
    group: Option<&str>,
    passwd: &str,
    groups: &str,
) -> Result<(u32, u32), String> {
    let entry = entry(passwd, user);
    let uid = number(user).or_else(|| number(entry.as_ref()?.get(2)?));
    let uid = uid.ok_or_else(|| format!("there is no user {user} in /etc/passwd"))?;
    let gid = match group {
        Some(group) => number(group)
            .or_else(|| number(self::entry(groups, group)?.get(2)?))
            .ok_or_else(|| format!("there is no group {group} in /etc/group"))?,
        None => entry.and_then(|entry| number(entry.get(3)?)).ok_or_else(|| {
            format!("user {user} is not in /etc/passwd; give the group, too: {user}:GID")
        })?,
    };
    Ok((uid, gid))
}

/// Returns the fields of the line with this name, or with this number as its third field.
fn entry<'file>(file: &'file str, name: &str) -> Option<Vec<&'file str>> {
    let mut lines = file.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.len() > 2 && (fields[0] == name || fields[2] == name))
}

fn number(text: &str) -> Option<u32> {
    // 2^32 - 1 means "no change" to the kernel.
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_group_are_numbers_or_names() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:\n7:x:8:9::/:\n";
        let groups = "root:x:0:\nadm:x:4:\n";
        let found = |user, group| look_up(user, group, passwd, groups);
        assert_eq!(found("web", None), Ok((33, 34)));
        assert_eq!(found("33", None), Ok((33, 34)));
        assert_eq!(found("web", Some("adm")), Ok((33, 4)));
        assert_eq!(found("1000", Some("1001")), Ok((1000, 1001)));
        for (user, group, says) in [
            ("nosuch", None, "no user nosuch"),
            ("", None, "no user "),
            ("4294967295", Some("1"), "no user 4294967295"),
            ("-1", Some("1"), "no user -1"),
            ("web", Some("nosuch"), "no group nosuch"),
            ("web", Some(""), "no group "),
            ("1000", None, "1000:GID"),
        ] {
            let refused = found(user, group).expect_err("refused");
            assert!(refused.contains(says), "{refused}");
        }
    }
}
