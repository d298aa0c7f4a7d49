"""The pages: each asks the read service, and returns what its template shows; and the acts that its forms ask for."""
