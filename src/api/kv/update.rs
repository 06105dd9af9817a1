//! POST …/incr and PATCH: writes whose new value depends on the present one. The committer computes them, so that of
//! many at once none is lost.
