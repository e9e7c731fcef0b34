"""Pages whole in themselves: what the reports of a cache and of a run share."""
