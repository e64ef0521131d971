"""Looking at a distillation: before it is trained, and at what it has learnt."""
