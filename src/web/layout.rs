//! What all pages show.

use super::{assets, session::Member};

/// What surrounds a page.
pub(super) struct Shell {
    pub title: String,
    pub section: Section,
    pub member: Option<MemberView>,
    pub styles: String,
    pub script: String,
}

/// Who is signed in.
pub(super) struct MemberView {
    pub email: String,
    pub csrf: String,
    pub is_suspended: bool,
    /// The time of day at which locks are granted again, in a recovery.
    pub recovering_until: Option<String>,
}

/// Where in the account a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Locks,
    Tokens,
    Plan,
    Security,
    Audit,
    Documents,
    Elsewhere,
}

impl Section {
    /// Those of the account, as the page lists them.
    const OF_ACCOUNT: [(Self, &str, &str); 5] = [
        (Self::Locks, "/account/locks", "Locks"),
        (Self::Tokens, "/account/tokens", "Tokens"),
        (Self::Plan, "/account/plan", "Plan"),
        (Self::Security, "/account/security", "Security"),
        (Self::Audit, "/account/audit", "Audit log"),
    ];
}

impl Shell {
    /// The sections of the account: their addresses and names, and whether this is
    /// one.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        Section::OF_ACCOUNT.into_iter().map(|(section, address, name)| (address, name, section == self.section))
    }

    pub(super) fn is_documents(&self) -> bool {
        self.section == Section::Documents
    }

    fn new(title: &str, section: Section, member: Option<MemberView>) -> Self {
        Self {
            title: title.to_owned(),
            section,
            member,
            styles: assets::STYLES.address(),
            script: assets::SCRIPT.address(),
        }
    }

    pub(super) fn of_anybody(title: &str) -> Self {
        Self::new(title, Section::Elsewhere, None)
    }

    pub(super) fn of_reader(title: &str) -> Self {
        Self::new(title, Section::Documents, None)
    }

    pub(super) fn of_member(title: &str, section: Section, member: &Member) -> Self {
        let view = MemberView {
            email: member.session.account.email.clone(),
            csrf: member.visitor.csrf().reveal().to_owned(),
            is_suspended: member.session.account.suspended_at.is_some(),
            recovering_until: member.recovering_until.map(|until| until.strftime("%H:%M:%S UTC").to_string()),
        };
        Self::new(title, section, Some(view))
    }
}
