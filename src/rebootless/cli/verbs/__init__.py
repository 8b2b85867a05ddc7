"""The verbs; `root.VERBS` names them, and each is imported only when it runs."""
