//! The frame of every page: title, navigation and warnings.

use super::{assets, session::SessionUser};

/// The data of `layout.html`, which every page extends.
pub(super) struct Layout {
    pub title: String,
    pub section: Section,
    pub user: Option<LayoutUser>,
    pub styles: String,
    pub script: String,
}

/// The signed-in user, as the layout shows it.
pub(super) struct LayoutUser {
    pub email: String,
    pub csrf: String,
    pub is_suspended: bool,
    /// During a recovery: the time of day at which locks are granted again.
    pub recovering_until: Option<String>,
}

/// The navigation entry that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Locks,
    Tokens,
    Plan,
    Security,
    Audit,
    Documents,
    None,
}

impl Section {
    /// The sections of the account, in the order of the navigation.
    const ACCOUNT: [(Self, &str, &str); 5] = [
        (Self::Locks, "/account/locks", "Locks"),
        (Self::Tokens, "/account/tokens", "Tokens"),
        (Self::Plan, "/account/plan", "Plan"),
        (Self::Security, "/account/security", "Security"),
        (Self::Audit, "/account/audit", "Audit log"),
    ];
}

impl Layout {
    /// The sections of the account: path, name, and whether this page belongs to it.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        Section::ACCOUNT.into_iter().map(|(section, path, name)| (path, name, section == self.section))
    }

    pub(super) fn is_documents(&self) -> bool {
        self.section == Section::Documents
    }

    fn new(title: &str, section: Section, user: Option<LayoutUser>) -> Self {
        Self { title: title.to_owned(), section, user, styles: assets::STYLES.url(), script: assets::SCRIPT.url() }
    }

    pub(super) fn signed_out(title: &str) -> Self {
        Self::new(title, Section::None, None)
    }

    pub(super) fn for_documents(title: &str) -> Self {
        Self::new(title, Section::Documents, None)
    }

    pub(super) fn for_user(title: &str, section: Section, user: &SessionUser) -> Self {
        let view = LayoutUser {
            email: user.session.account.email.clone(),
            csrf: user.browser.csrf().reveal().to_owned(),
            is_suspended: user.session.account.suspended_at.is_some(),
            recovering_until: user.recovering_until.map(|until| until.strftime("%H:%M:%S UTC").to_string()),
        };
        Self::new(title, section, Some(view))
    }
}
