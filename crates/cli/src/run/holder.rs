use std::process;

use lockable_protocol::Owner;

/// Creates the owner of one run: the label, the host, the process id and a random number. Two runs
/// with one label are two holders.
pub(super) fn unique(label: Option<&str>) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    let end = format!("{}:{:08x}", process::id(), fastrand::u32(..));
    joined(label, &host, &end)
}

/// Joins the parts; cuts the label, then the host, to the maximum length of an owner.
fn joined(label: Option<&str>, host: &str, end: &str) -> String {
    let mut owner = String::new();
    if let Some(label) = label {
        let (chars, bytes) = (Owner::CHARS_MAX - end.len() - 1, Owner::BYTES_MAX - end.len() - 1);
        owner = label.chars().take(chars).collect();
        while owner.len() > bytes {
            owner.pop();
        }
        owner.push(':');
    }
    let rest = Owner::CHARS_MAX - owner.chars().count() - end.len();
    let rest = rest.min(Owner::BYTES_MAX - owner.len() - end.len()).saturating_sub(1);
    let host: String = host.chars().filter(char::is_ascii_graphic).take(rest.min(64)).collect();
    if !host.is_empty() {
        owner = format!("{owner}{host}:");
    }
    owner + end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_of_any_label_is_valid_and_keeps_its_unique_end() {
        let end = "4194304:0123abcd";
        for (label, host, expected) in [
            (None, "build-7", "build-7:4194304:0123abcd"),
            (None, "", end),
            (Some("ci"), "build-7", "ci:build-7:4194304:0123abcd"),
            (Some("ci"), "", "ci:4194304:0123abcd"),
        ] {
            assert_eq!(joined(label, host, end), expected);
        }
        for label in ["x".repeat(128), "é".repeat(128), "→".repeat(85), "x".repeat(110)] {
            let owner = joined(Some(&label), &"h".repeat(64), end);
            assert!(owner.ends_with(end) && Owner::parse(&owner).is_ok(), "{owner}");
            assert!(owner.starts_with(&label.chars().take(50).collect::<String>()), "{owner}");
        }
    }
}
