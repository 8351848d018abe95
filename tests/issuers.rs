//! Logins by JWTs of trusted issuers.

mod check;
