//! The web pages: the start page, the documents and the account pages. The server renders
//! them; a page loads nothing from other origins and works without JavaScript.

mod account;
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
mod page_runtime;
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
