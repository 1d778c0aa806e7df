//! What has to be done so that two sides agree. (Types follow.)
