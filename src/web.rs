//! The pages: what Lockable is, its documents, and the account page. They are made
//! here, and load nothing from elsewhere. Everything works without JavaScript.

mod account;
mod aside;
mod assets;
mod audit;
mod break_lock;
mod browser;
mod chart;
mod delete_account;
mod documents;
mod error;
mod form;
mod headers;
mod history;
mod home;
mod layout;
mod link;
mod live;
mod locks;
mod markdown;
mod namespaces;
mod plan;
mod problems;
mod reference;
mod routes;
mod security;
mod session;
mod sign_in;
mod sign_up;
mod template;
mod time;
mod tokens;

pub use self::routes::routes;
