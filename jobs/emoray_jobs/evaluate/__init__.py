"""`emoray evaluate` and `emoray leaderboard`: predictions of registered versions, and the reports made from them."""
