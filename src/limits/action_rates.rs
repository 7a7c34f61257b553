use std::{net::IpAddr, time::Duration};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{account_rates::DRAW_RATE, auth_failures::Network};
use crate::{
    lock::AccountId,
    store::{ACCOUNTS_TAG, BadReply, Store, StoreError},
};

/// Limits the rate of costly actions across all servers: attempts to guess passwords and links, whose
/// checks are expensive, and changes that add a permanent row to the audit log.
pub struct ActionRateLimiter {
    store: Store,
}

/// An action, and the key by which it is counted.
#[derive(Clone, Copy, Debug)]
pub enum LimitedAction<'a> {
    /// A sign-in, by client network.
    SignInFrom(IpAddr),
    /// A password check at sign-in, by e-mail address, whether or not an account has it.
    PasswordOf(&'a str),
    /// A password check of a signed-in user, by session.
    PasswordIn(Uuid),
    /// A sign-up, by client network.
    SignUpFrom(IpAddr),
    /// The use of an e-mailed link, by client network.
    LinkFrom(IpAddr),
    /// A sign-up, by e-mail address, whether or not an account has it.
    SignUpAs(&'a str),
    /// Creating or rotating a token, by account.
    TokenOf(AccountId),
    /// Breaking a lock or another change, by account.
    ChangeOf(AccountId),
    /// Releasing a lock that another token acquired, by account.
    ReleaseOf(AccountId),
}

impl LimitedAction<'_> {
    /// The burst, and the seconds in which one action is refilled.
    pub const SIGN_IN_FROM: (u32, u32) = (30, 10);
    pub const PASSWORD_OF: (u32, u32) = (10, 60);
    pub const PASSWORD_IN: (u32, u32) = (10, 60);
    pub const SIGN_UP_FROM: (u32, u32) = (20, 180);
    pub const LINK_FROM: (u32, u32) = (20, 60);
    pub const SIGN_UP_AS: (u32, u32) = (5, 600);
    pub const TOKEN_OF: (u32, u32) = (20, 60);
    pub const CHANGE_OF: (u32, u32) = (200, 5);
    pub const RELEASE_OF: (u32, u32) = (200, 5);

    fn burst_and_interval(self) -> (u32, u32) {
        match self {
            Self::SignInFrom(_) => Self::SIGN_IN_FROM,
            Self::PasswordOf(_) => Self::PASSWORD_OF,
            Self::PasswordIn(_) => Self::PASSWORD_IN,
            Self::SignUpFrom(_) => Self::SIGN_UP_FROM,
            Self::LinkFrom(_) => Self::LINK_FROM,
            Self::SignUpAs(_) => Self::SIGN_UP_AS,
            Self::TokenOf(_) => Self::TOKEN_OF,
            Self::ChangeOf(_) => Self::CHANGE_OF,
            Self::ReleaseOf(_) => Self::RELEASE_OF,
        }
    }

    /// The name of the bucket, hashed so that Redis stores no e-mail or IP address.
    fn bucket_name(self) -> String {
        let key = match self {
            Self::SignInFrom(address) => format!("sign-in {}", Network::from(address)),
            Self::PasswordOf(email) => format!("password {}", email.to_lowercase()),
            Self::PasswordIn(session) => format!("password in {session}"),
            Self::SignUpFrom(address) => format!("sign-up {}", Network::from(address)),
            Self::LinkFrom(address) => format!("link {}", Network::from(address)),
            Self::SignUpAs(email) => format!("sign-up as {}", email.to_lowercase()),
            Self::TokenOf(account) => format!("token {account}"),
            Self::ChangeOf(account) => format!("change {account}"),
            Self::ReleaseOf(account) => format!("release {account}"),
        };
        Sha256::digest(key).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl ActionRateLimiter {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Counts an action. Returns the time to wait if the action is over its rate.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count(&self, action: LimitedAction<'_>) -> Result<Option<Duration>, StoreError> {
        let (burst, interval_s) = action.burst_and_interval();
        let interval_us = u64::from(interval_s) * 1_000_000;
        let bucket = self.store.key(ACCOUNTS_TAG, "attempts", &action.bucket_name());
        let args = [&*interval_us.to_string(), &(interval_us * u64::from(burst)).to_string(), "1"];
        let reply = self.store.eval(&DRAW_RATE, &[&bucket], &args).await?;
        let refused = |bad: BadReply| StoreError::Refused(bad.to_string());
        match reply.status() {
            "granted" => Ok(None),
            "rate_limited" => Ok(Some(Duration::from_micros(reply.word(2).map_err(refused)?))),
            _ => Err(refused(reply.bad())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_network_email_session_and_account_has_its_own_bucket() {
        let [one, mapped, other, here, beside, elsewhere] =
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
                .map(|address| address.parse().unwrap());
        let account = AccountId(Uuid::new_v4());
        let name = |action: LimitedAction| action.bucket_name();
        let apart = [
            name(LimitedAction::SignInFrom(one)),
            name(LimitedAction::SignInFrom(other)),
            name(LimitedAction::SignInFrom(here)),
            name(LimitedAction::SignInFrom(elsewhere)),
            name(LimitedAction::SignUpFrom(one)),
            name(LimitedAction::LinkFrom(one)),
            name(LimitedAction::PasswordOf("ana@example.com")),
            name(LimitedAction::PasswordOf("eve@example.com")),
            name(LimitedAction::PasswordIn(account.0)),
            name(LimitedAction::SignUpAs("eve@example.com")),
            name(LimitedAction::TokenOf(account)),
            name(LimitedAction::ChangeOf(account)),
            name(LimitedAction::ReleaseOf(account)),
        ];
        assert_eq!(apart.iter().collect::<HashSet<_>>().len(), apart.len());
        assert_eq!(name(LimitedAction::SignInFrom(one)), name(LimitedAction::SignInFrom(mapped)));
        assert_eq!(name(LimitedAction::SignInFrom(here)), name(LimitedAction::SignInFrom(beside)), "the same /64");
        assert_eq!(
            name(LimitedAction::PasswordOf("Ana@Example.com")),
            name(LimitedAction::PasswordOf("ana@example.com"))
        );
    }
}
