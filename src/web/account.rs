use axum::response::Redirect;

use super::session::SessionUser;

/// `GET /account`: the address that documents link to. Redirects to the list of locks.
pub(super) async fn account(_member: SessionUser) -> Redirect {
    Redirect::to("/account/locks")
}
