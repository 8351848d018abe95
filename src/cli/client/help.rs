//! What stands under the help of the commands that call a service.

/// Printed under the help of `mayfly token` and `mayfly whoami`.
pub(super) const CLIENT_HELP: &str = "\
The user is --user, or the one that ~/.netrc (or the file in NETRC) names for the host of the URL. The password comes
from --password-file, from ~/.netrc, or from a prompt at the terminal. Both are sent over HTTPS or to this machine; set
--allow-http to send them over plain HTTP to others. Redirects are not followed.

At a terminal, you get a table, with colours unless NO_COLOR is set; elsewhere, values separated by tabs, with durations
in seconds. `issue` and `rotate` print the JWT alone. They are repeated for some seconds after a lost answer or a 503,
with an Idempotency-Key: no second token is made.

Exit codes:
  0  done; for `verify`: the token is valid
  1  the service refused it; for `verify`: the token is not valid
  2  an argument or a setting is wrong
  3  the service was not reached, is unavailable, or something else answered in its place";

/// Printed under the help of `mayfly user`.
pub(in crate::cli) const USER_HELP: &str = "\
With MAYFLY_URL, an administrator changes users by the API of a service: `mayfly whoami --help` says how the
administrator logs in. Otherwise, the command changes them in Redis.

Exit codes:
  0  done
  1  it was refused, or Redis was not reached
  2  an argument or a setting is wrong
  3  the service at MAYFLY_URL was not reached, is unavailable, or something else answered in its place";
