//! The groups that a framework, an operator or a file names for a container. Pure.
//!
//! Names come from outside: they are counted before they are looked at, and quoted in messages.

use contrail_mesos_api::cluster::{MAX_GROUP_NAME_BYTES, MAX_GROUPS, Membership, is_group_name};
use contrail_mesos_api::text::Quoted;

/// Why a container cannot be in the groups that were named for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// There are too many.
    #[error(
        "{0} groups and security groups are named; a container can have at most {MAX_GROUPS} of them on a network"
    )]
    TooMany(usize),
    /// Names that no group has.
    #[error(
        "no group has the name {}; use 1 to {MAX_GROUP_NAME_BYTES} printable ASCII characters, and no spaces, commas, quotes and backslashes",
        quoted(.0)
    )]
    Names(Vec<String>),
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| Quoted(name.as_bytes()).to_string())
        .collect();
    names.join(" or ")
}

/// The groups and security groups with these names, which may be there several times.
pub fn membership<'a>(
    groups: impl IntoIterator<Item = &'a [u8]>,
    security_groups: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Membership, MembershipError> {
    let (groups, security_groups): (Vec<_>, Vec<_>) = (
        groups.into_iter().collect(),
        security_groups.into_iter().collect(),
    );
    let count = groups.len() + security_groups.len();
    if count > MAX_GROUPS {
        return Err(MembershipError::TooMany(count));
    }
    let mut invalid = Vec::new();
    let mut names = |list: Vec<&[u8]>| -> Vec<String> {
        let mut names = Vec::new();
        for name in list {
            match std::str::from_utf8(name) {
                Ok(name) if is_group_name(name) => names.push(name.to_owned()),
                _ => invalid.push(String::from_utf8_lossy(name).into_owned()),
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    };
    let membership = Membership {
        groups: names(groups),
        security_groups: names(security_groups),
    };
    if invalid.is_empty() {
        Ok(membership)
    } else {
        Err(MembershipError::Names(invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(groups: &[&str], security_groups: &[&str]) -> Result<Membership, MembershipError> {
        membership(
            groups.iter().map(|name| name.as_bytes()),
            security_groups.iter().map(|name| name.as_bytes()),
        )
    }

    #[test]
    fn membership_is_sorted_and_distinct() {
        let found = of(&["web", "db", "web"], &["a", "a"]).unwrap();
        assert_eq!(found.groups, ["db", "web"]);
        assert_eq!(found.security_groups, ["a"]);
        assert!(of(&[], &[]).unwrap().is_empty());
    }

    #[test]
    fn invalid_and_too_many_names_are_refused() {
        let error = of(&["web", "a b"], &["", "x\u{1b}[31m"]).unwrap_err();
        let MembershipError::Names(names) = &error else {
            panic!("{error}");
        };
        assert_eq!(names.len(), 3);
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        let many = vec!["x"; MAX_GROUPS];
        assert!(of(&many, &[]).is_ok());
        assert_eq!(
            of(&many, &["y"]),
            Err(MembershipError::TooMany(MAX_GROUPS + 1))
        );
        assert!(membership([b"\xff".as_slice()], []).is_err());
    }
}
