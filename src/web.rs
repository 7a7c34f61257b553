//! The pages: what Lockable is, its documents, and the account page. They are made
//! here, and load nothing from elsewhere. Everything works without JavaScript.

mod account;
mod aside;
mod assets;
mod audit;
mod breaking;
mod chart;
mod documents;
mod form;
mod headers;
mod history;
mod home;
mod link;
mod live;
mod locks;
mod markdown;
mod member;
mod namespaces;
mod page;
mod plan;
mod problems;
mod reference;
mod removal;
mod routes;
mod security;
mod sign_in;
mod sign_up;
mod time;
mod tokens;
mod trouble;
mod view;
mod visitor;

pub use self::routes::routes;
