"""Records of finished cells, and the leaderboard made from them. Needs neither torch nor any component."""
