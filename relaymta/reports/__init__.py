"""Mail that we write ourselves; it composes and never sends."""
