"""How a message leaves: hosts, connections, and what their answers mean; it never touches the queue."""
