"""What clouds take and what they refuse: rules with their documents, checked before anything is sent."""
