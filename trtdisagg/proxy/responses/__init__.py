"""`/v1/responses`: a request becomes a chat, the chat's answer a response, whole or event by event. No sockets here."""
