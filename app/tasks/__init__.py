"""What each endpoint does to a picture: async (Picture, Wish, Engine, RequestContext) -> Answer."""
