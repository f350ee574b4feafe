"""Teachers behind an API: what they are asked, what they say, and how they are asked so that nothing is paid twice."""
