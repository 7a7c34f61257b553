use std::{net::IpAddr, time::Duration};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{auth_failures::Network, token_rates::PERMITS};
use crate::{
    lock::AccountId,
    store::{ACCOUNTS_TAG, BadReply, Store, StoreError},
};

/// Counts what people try on the account page, over all pods together: passwords
/// and links can be guessed at, and cost much to check. And counts what an account does
/// that leaves a row in the audit log, which is kept for ever.
pub struct Attempts {
    store: Store,
}

/// What is tried, and by whom.
#[derive(Clone, Copy, Debug)]
pub enum Attempt<'a> {
    /// To sign in, from an address.
    SignInFrom(IpAddr),
    /// A password, for whoever has this e-mail address, should it be anybody.
    PasswordOf(&'a str),
    /// A password, by who is signed in already, in a session with this id.
    PasswordIn(Uuid),
    /// To make an account, from an address.
    SignUpFrom(IpAddr),
    /// To use a link, from an address.
    LinkFrom(IpAddr),
    /// To make an account for an e-mail address, which may have one already.
    SignUpAs(&'a str),
    /// To make or rotate a token of an account.
    TokenOf(AccountId),
    /// To break a lock of an account, or to change something else of it.
    ChangeOf(AccountId),
    /// To release a lock of an account that another token has acquired.
    ReleaseOf(AccountId),
}

impl Attempt<'_> {
    /// How many at once, and how many seconds until one more.
    pub const SIGN_IN_FROM: (u32, u32) = (30, 10);
    pub const PASSWORD_OF: (u32, u32) = (10, 60);
    pub const PASSWORD_IN: (u32, u32) = (10, 60);
    pub const SIGN_UP_FROM: (u32, u32) = (20, 180);
    pub const LINK_FROM: (u32, u32) = (20, 60);
    pub const SIGN_UP_AS: (u32, u32) = (5, 600);
    pub const TOKEN_OF: (u32, u32) = (20, 60);
    pub const CHANGE_OF: (u32, u32) = (200, 5);
    pub const RELEASE_OF: (u32, u32) = (200, 5);

    fn allowance(self) -> (u32, u32) {
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

    /// By what it is counted: nobody reads an address out of it.
    fn name(self) -> String {
        let who = match self {
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
        Sha256::digest(who).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Attempts {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Counts an attempt. Returns how long to wait when there were too many.
    ///
    /// # Errors
    /// When the store gave no answer.
    pub async fn refusal(&self, attempt: Attempt<'_>) -> Result<Option<Duration>, StoreError> {
        let (burst, interval_s) = attempt.allowance();
        let interval_us = u64::from(interval_s) * 1_000_000;
        let bucket = self.store.key(ACCOUNTS_TAG, "attempts", &attempt.name());
        let args = [&*interval_us.to_string(), &(interval_us * u64::from(burst)).to_string(), "1"];
        let reply = self.store.run(&PERMITS, &[&bucket], &args).await?;
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
    fn each_address_and_each_account_is_counted_apart() {
        let [one, mapped, other, here, beside, elsewhere] =
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
                .map(|address| address.parse().unwrap());
        let account = AccountId(Uuid::new_v4());
        let name = |attempt: Attempt| attempt.name();
        let apart = [
            name(Attempt::SignInFrom(one)),
            name(Attempt::SignInFrom(other)),
            name(Attempt::SignInFrom(here)),
            name(Attempt::SignInFrom(elsewhere)),
            name(Attempt::SignUpFrom(one)),
            name(Attempt::LinkFrom(one)),
            name(Attempt::PasswordOf("ana@example.com")),
            name(Attempt::PasswordOf("eve@example.com")),
            name(Attempt::PasswordIn(account.0)),
            name(Attempt::SignUpAs("eve@example.com")),
            name(Attempt::TokenOf(account)),
            name(Attempt::ChangeOf(account)),
            name(Attempt::ReleaseOf(account)),
        ];
        assert_eq!(apart.iter().collect::<HashSet<_>>().len(), apart.len());
        assert_eq!(name(Attempt::SignInFrom(one)), name(Attempt::SignInFrom(mapped)));
        assert_eq!(name(Attempt::SignInFrom(here)), name(Attempt::SignInFrom(beside)), "the same /64");
        assert_eq!(name(Attempt::PasswordOf("Ana@Example.com")), name(Attempt::PasswordOf("ana@example.com")));
    }
}
